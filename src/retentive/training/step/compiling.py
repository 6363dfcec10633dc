"""Training through ``torch.compile``."""

from torch import nn

from retentive.layers.block import Block
from retentive.models.protocol import LanguageModel, as_module


def compile_in_place(model: LanguageModel) -> None:
    """Let calls of a model run compiled, in the forward and the backward pass.

    A model that reads a call as a whole is compiled whole. One that unrolls a call into segments or chunks, as many as
    the call is long, is compiled block by block.
    """
    module = as_module(model)
    for part in _pieces(model, module):
        part.compile()


def _pieces(model: LanguageModel, module: nn.Module) -> list[nn.Module]:
    if model.recomputes_segments is None and model.chunked_reading is None:
        return [module]
    return [part for part in module.modules() if isinstance(part, Block)]
