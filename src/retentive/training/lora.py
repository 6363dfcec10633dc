"""LoRA: a low-rank change of a model's mixers learns in place of their weights (Hu et al. 2021, arXiv:2106.09685)."""

from typing import Any

from torch import nn


def add_lora(model: nn.Module, rank: int) -> None:
    """Let a low-rank change of every mixer's projections learn.

    Raises:
        ImportError: If peft is not installed.
    """
    from peft import LoraConfig, inject_adapter_in_model

    places = r".*mixer\.(input|output)_proj"
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=places), model)


def merge_lora(model: nn.Module) -> None:
    """Put what was learned into the weights, so that the model has its own modules again."""
    from peft.tuners.lora import LoraLayer

    for name, module in [*model.named_modules()]:
        if isinstance(module, LoraLayer):
            layer: Any = module
            layer.merge()
            holder, _, last = name.rpartition(".")
            setattr(model.get_submodule(holder), last, layer.get_base_layer())
