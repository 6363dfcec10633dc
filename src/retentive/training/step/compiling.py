"""Training through ``torch.compile``."""

from retentive.layers.block import Block
from retentive.models.protocol import LanguageModel, as_module


def compile_in_place(model: LanguageModel) -> None:
    """Let a model's blocks run compiled, in the forward and the backward pass; without blocks, the whole model.

    Embedding, head and loss are computed as they are: Inductor's passes over all logits take longer than those of
    `retentive.ops.cross_entropy`. The loops over segments and chunks stay outside, too, as long as the call is.
    """
    module = as_module(model)
    for part in [part for part in module.modules() if isinstance(part, Block)] or [module]:
        part.compile()
