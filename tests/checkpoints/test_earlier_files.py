"""Files of earlier releases open, and hold what they held."""

import json
import tarfile
import warnings
from pathlib import Path

import pytest
import torch

from retentive.checkpoints import load_model, load_state, save_model

RETRO_WITH_A_BASE = Path(__file__).with_name("retro_with_a_base.tar.gz")
"""A RETRO whose config says `base` for its `backbone`, and its state after the tokens and neighbours below."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(RETRO_WITH_A_BASE) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path


def test_a_retro_with_a_base_has_a_backbone(folder: Path):
    tokens = torch.arange(9)[None]
    neighbours = (torch.arange(2 * 2 * 8) % 11).view(1, 2, 2, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        model = load_model(folder / "model").eval()
        kept = load_state(folder / "state.safetensors", model)
    assert (model.config.backbone.family, model.config.backbone.vocab_size) == ("transformer", 11)
    with torch.no_grad():
        made = model(tokens, neighbours=neighbours).state
        torch.testing.assert_close(model(tokens, kept).logits, model(tokens, made).logits)
    save_model(model, folder / "again")
    assert "base" not in json.loads((folder / "again" / "config.json").read_text())["config"]
    assert load_model(folder / "again").config == model.config


def test_transformers_opens_it_too(folder: Path):
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM

    from retentive.huggingface import register

    register()
    theirs = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert theirs.config.config["backbone"]["family"] == "transformer"
    tokens = torch.arange(9)[None]
    torch.testing.assert_close(theirs(tokens).logits, load_model(folder / "model").eval()(tokens).logits)
