"""One wrapper over the registry for users of transformers: every family, one config, one model, one cache.

Nothing registers itself: `register` is called by the user, and until a name is used, transformers is not imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retentive.huggingface.cache import StateCache
    from retentive.huggingface.classification import RetentiveForSequenceClassification
    from retentive.huggingface.config import RetentiveConfig
    from retentive.huggingface.model import RetentiveForCausalLM
    from retentive.huggingface.recurrent_memory.config import HuggingFaceMemoryConfig
    from retentive.huggingface.recurrent_memory.files import load_memory, save_memory
    from retentive.huggingface.recurrent_memory.model import HuggingFaceRecurrentMemory
    from retentive.huggingface.registration import register

_HOMES = {
    "HuggingFaceMemoryConfig": "retentive.huggingface.recurrent_memory.config",
    "HuggingFaceRecurrentMemory": "retentive.huggingface.recurrent_memory.model",
    "RetentiveConfig": "retentive.huggingface.config",
    "RetentiveForCausalLM": "retentive.huggingface.model",
    "RetentiveForSequenceClassification": "retentive.huggingface.classification",
    "StateCache": "retentive.huggingface.cache",
    "load_memory": "retentive.huggingface.recurrent_memory.files",
    "register": "retentive.huggingface.registration",
    "save_memory": "retentive.huggingface.recurrent_memory.files",
}

__all__ = [
    "HuggingFaceMemoryConfig",
    "HuggingFaceRecurrentMemory",
    "RetentiveConfig",
    "RetentiveForCausalLM",
    "RetentiveForSequenceClassification",
    "StateCache",
    "load_memory",
    "register",
    "save_memory",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'retentive.huggingface' has no attribute {name!r}.")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ImportError(
            f"retentive.huggingface.{name} needs transformers 5.0 or newer, which is not installed: "
            "pip install 'retentive[hf]'."
        ) from error


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
