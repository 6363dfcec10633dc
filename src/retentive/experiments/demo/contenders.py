"""The models of the demo: who is trained, measured and reported."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from retentive.models.protocol import FamilyConfig
from retentive.models.registry import config_class
from retentive.models.retro import retro_over

SIZES = {"hidden_size": 128, "num_layers": 4, "num_heads": 2}
"""Of every model in the demo, so that they have as many parameters."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A model of the demo.

    Attributes:
        family: Its family in the registry.
        name: What the report calls it.
        config: Its config by vocabulary size.
        fitted_to: Family of the contender before it that it is fitted to (RETROfit); None begins with new weights.
    """

    family: str
    name: str
    config: Callable[[int], FamilyConfig]
    fitted_to: str | None = None


def _recurrent_memory(vocab_size: int) -> FamilyConfig:
    """A Transformer of the same size that sees 128 tokens and carries 8 of memory."""
    backbone = config_class("transformer")(vocab_size=vocab_size, **SIZES)
    return config_class("rmt")(backbone=backbone, segment_length=128, num_memory_tokens=8)


def _with_neighbours(vocab_size: int) -> FamilyConfig:
    """The same Transformer, which also reads the neighbours of each chunk: an encoder of two layers, which can copy."""
    backbone = config_class("transformer")(vocab_size=vocab_size, **SIZES)
    return replace(retro_over(backbone), share_embeddings=True)


CONTENDERS = (
    Contender("retnet", "RetNet", lambda size: config_class("retnet")(vocab_size=size, **SIZES)),
    Contender("transformer", "Transformer", lambda size: config_class("transformer")(vocab_size=size, **SIZES)),
    Contender("rmt", "RMT", _recurrent_memory),
    Contender("retro", "RETRO", _with_neighbours, fitted_to="transformer"),
)
"""Who is trained, measured and reported, in this order; the first one writes the sample."""
