"""What a state depends on beside a model's config and the fingerprint of its weights."""

import threading
import uuid
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from retentive.engine.code import code_of
from retentive.engine.lookup import weight_versions
from retentive.models.protocol import LanguageModel, as_module
from retentive.models.recomputing import is_recomputed
from retentive.private_apis import has_hooks, hooks_held_by, is_offloaded


@dataclass(frozen=True, slots=True)
class _Seen:
    """A model as it was, and the key that it had."""

    facts: tuple[object, ...]
    key: str


_SEEN: WeakKeyDictionary[nn.Module, _Seen] = WeakKeyDictionary()
_LOCK = threading.Lock()


def model_key(model: LanguageModel) -> str:
    """What tells states of a model from those of the same model before something of it was changed.

    The fingerprint reads a few values of each weight, and no hooks, adapters that are disabled, activations or patched
    ``forward``. Once one of them has changed, the model has a key that no other process knows.

    Args:
        model: As it is now.

    Returns:
        An empty string for a model of which its weights say all, as it was first seen.
    """
    module = as_module(model)
    hooks = tuple(hook for part in module.modules() for hook in hooks_held_by(part))
    # Of a write to ``.data`` torch counts nothing; the fingerprint, which is beside this key, tells of most.
    facts = (weight_versions(module), code_of(module), hooks)
    with _LOCK:
        seen = _SEEN.get(module)
        if seen is None or seen.facts != facts:
            is_new = seen is None and not any(map(_does_more, module.modules()))
            _SEEN[module] = seen = _Seen(facts, "" if is_new else uuid.uuid4().hex)
    return seen.key


def _does_more(part: nn.Module) -> bool:
    """Whether a part does what its class and weights do not say."""
    if is_offloaded(part):
        return False
    return has_hooks(part) or ("forward" in vars(part) and not is_recomputed(part))
