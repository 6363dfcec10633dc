"""Language models that remember: RetNet, recurrent memory and retrieval over one decoder.

The public names are loaded when they are first used, so that ``import retentive`` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retentive.checkpoints import load_model, load_state, save_model, save_state
    from retentive.generation import PrefixCache, Sampling, generate, stream
    from retentive.layers.mixers.retention import MultiScaleRetention, RetentionConfig
    from retentive.models.hybrid import Hybrid, HybridConfig
    from retentive.models.retnet import RetNet, RetNetConfig
    from retentive.models.retro import Retro, RetroConfig
    from retentive.models.rmt import RecurrentMemoryConfig, RecurrentMemoryTransformer
    from retentive.models.transformer import Transformer, TransformerConfig
    from retentive.models.yoco import Yoco, YocoConfig
    from retentive.ops.retention import retention, retention_chunkwise, retention_parallel, retention_recurrent
    from retentive.retrieval import Datastore

__version__ = "0.1.0"

_HOMES = {
    "Datastore": "retentive.retrieval",
    "Hybrid": "retentive.models.hybrid",
    "HybridConfig": "retentive.models.hybrid",
    "MultiScaleRetention": "retentive.layers.mixers.retention",
    "PrefixCache": "retentive.generation",
    "RecurrentMemoryConfig": "retentive.models.rmt",
    "RecurrentMemoryTransformer": "retentive.models.rmt",
    "RetNet": "retentive.models.retnet",
    "RetNetConfig": "retentive.models.retnet",
    "Retro": "retentive.models.retro",
    "RetroConfig": "retentive.models.retro",
    "RetentionConfig": "retentive.layers.mixers.retention",
    "Sampling": "retentive.generation",
    "Transformer": "retentive.models.transformer",
    "TransformerConfig": "retentive.models.transformer",
    "Yoco": "retentive.models.yoco",
    "YocoConfig": "retentive.models.yoco",
    "generate": "retentive.generation",
    "load_model": "retentive.checkpoints",
    "load_state": "retentive.checkpoints",
    "retention": "retentive.ops.retention",
    "retention_chunkwise": "retentive.ops.retention",
    "retention_parallel": "retentive.ops.retention",
    "retention_recurrent": "retentive.ops.retention",
    "save_model": "retentive.checkpoints",
    "save_state": "retentive.checkpoints",
    "stream": "retentive.generation",
}

__all__ = [
    "Datastore",
    "Hybrid",
    "HybridConfig",
    "MultiScaleRetention",
    "PrefixCache",
    "RecurrentMemoryConfig",
    "RecurrentMemoryTransformer",
    "RetNet",
    "RetNetConfig",
    "RetentionConfig",
    "Retro",
    "RetroConfig",
    "Sampling",
    "Transformer",
    "TransformerConfig",
    "Yoco",
    "YocoConfig",
    "generate",
    "load_model",
    "load_state",
    "retention",
    "retention_chunkwise",
    "retention_parallel",
    "retention_recurrent",
    "save_model",
    "save_state",
    "stream",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'retentive' has no attribute {name!r}.")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
