"""LoRA: a low-rank change of a decoder's mixers learns in place of its weights (Hu et al. 2021, arXiv:2106.09685)."""

from typing import Any

from torch import nn

from retentive.extras import require
from retentive.models.base import DecoderModel

_PLACES = r".*mixer\.(input|query|output)_proj"


def add_lora(model: DecoderModel, rank: int) -> None:
    """Freeze a model's decoder and let a low-rank change of its mixers' projections learn.

    What stands around the decoder, such as a memory, learns or stays as before.

    Args:
        model: Changed in place; `merge_lora` gives it its own modules again.
        rank: Of the change; it is scaled by 2.

    Raises:
        ImportError: If peft is not installed.
    """
    check_lora()
    from peft import LoraConfig, inject_adapter_in_model

    # Into the decoder alone: peft freezes whatever else is in the module that it is given.
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_PLACES), model.decoder)


def merge_lora(model: nn.Module) -> None:
    """Put what was learned into the weights, so that the model has its own modules again."""
    from peft.tuners.lora import LoraLayer

    for name, module in [*model.named_modules()]:
        if isinstance(module, LoraLayer):
            layer: Any = module
            layer.merge()
            holder, _, last = name.rpartition(".")
            setattr(model.get_submodule(holder), last, layer.get_base_layer())


def check_lora() -> None:
    """Import peft, before anything is written.

    Raises:
        ImportError: If it is not installed.
    """
    require("peft", "LoRA")
