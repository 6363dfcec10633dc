"""Floating-point operations of the matrix products of a model, counted exactly.

A product of an (m, k) with a (k, n) matrix is ``2 m k n`` operations. Norms, activations, rotation, softmax and the
optimizer are not counted, nor is anything that a backward pass computes again: what is counted is what the result
needs, so a share of the machine's speed cannot be raised by doing more.
"""

from torch import nn

from retentive.layers.mixers.retention import RetentionConfig
from retentive.models.base import DecoderModel


def training_flops(model: DecoderModel, time: int) -> int:
    """Of a training step on one row: forward, and twice as much backward (each product has two gradients)."""
    return 3 * forward_flops(model, time)


def forward_flops(model: DecoderModel, time: int) -> int:
    """Of reading ``time`` tokens of one row after an empty state, with all logits."""
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    if model.decoder.head is None:
        weights += model.decoder.embedding.tokens.weight.numel()  # the tied table is the head
    mixer = model.decoder.config.mixers[0]
    if not isinstance(mixer, RetentionConfig):
        raise TypeError(f"model must be of retention layers for its products to be counted, but has {mixer}.")
    return 2 * time * weights + model.decoder.config.num_layers * retention_flops(mixer, time)


def retention_flops(config: RetentionConfig, time: int) -> int:
    """Of one layer's chunkwise form: scores, their sum of values, states of chunks, and what queries read of states.

    Scores are counted as whole squares of a chunk, upper triangle included, since that is the product that is run; of
    this benchmark's model all of retention is a twentieth.
    """
    whole, rest = divmod(time, config.chunk_size)
    squares = whole * config.chunk_size**2 + rest**2
    inside = squares * (config.key_dim + config.value_dim)
    between = 2 * time * config.key_dim * config.value_dim
    return 2 * config.num_heads * (inside + between)
