"""Another number of tokens for a model: its tables and its config."""

from typing import Any

import torch
from torch import nn

from retentive.models.base import DecoderModel
from retentive.models.registry import build, config_from_dict


def with_vocab_size(config: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Return a described config with another number of tokens, also in the configs of families inside it."""
    changed: dict[str, Any] = {}
    for name, value in config.items():
        if name == "vocab_size":
            changed[name] = vocab_size
        else:
            changed[name] = with_vocab_size(value, vocab_size) if isinstance(value, dict) else value
    return changed


@torch.no_grad()
def resize_vocabulary(model: DecoderModel, config: dict[str, Any]) -> None:
    """Give a model the tables that a config describes, which differs from its own in ``vocab_size`` alone.

    Rows that both have are kept; each new row is the mean of the old ones, so that new tokens are neither likely nor
    unlikely. States of the model as it was do not fit it any more, and are refused.
    """
    with torch.device("meta"):
        pattern = build(config_from_dict(config))
    for name, wanted in pattern.named_parameters():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        found: nn.Parameter = getattr(owner, leaf)
        if found.shape == wanted.shape:
            continue
        rows = min(len(found), len(wanted))
        table = found.new_empty(wanted.shape)
        table[:rows] = found[:rows]
        table[rows:] = found.float().mean(0).to(table)
        setattr(owner, leaf, nn.Parameter(table, requires_grad=found.requires_grad))
    for path, module in model.named_modules():
        like: Any = pattern.get_submodule(path)
        for attribute in ("config", "num_embeddings", "out_features"):
            if hasattr(like, attribute):
                setattr(module, attribute, getattr(like, attribute))
