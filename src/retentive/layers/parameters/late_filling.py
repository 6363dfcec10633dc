"""Parameters filled one at a time, with the numbers that the whole model would have: for models that no process holds.

`reset_parameters` draws from one generator through the whole model, layer after layer and then by the family's rule. So
it is run once on a model without memory, while each draw is noted with the state of the generator, and made on memory
that is freed at once. A parameter is then made by its own notes, whenever it is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True, slots=True)
class _Note:
    """One change of a parameter or of a part of it, such as ``uniform_``.

    Attributes:
        change: The function, called with what it changes.
        size: Of the part.
        stride: Of the part.
        offset: Of its first number in the parameter's memory.
        generator: State of torch's generator before the change.
    """

    change: Callable[[Tensor], object]
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    generator: Tensor


class _Notes(TorchFunctionMode):
    """Notes every change of tensors without memory; advances the generator as it would."""

    def __init__(self, scratch_bytes: int) -> None:
        super().__init__()
        # One buffer for all: large temporaries freed between the notes, which are kept, would fragment the heap.
        self._scratch = torch.empty(scratch_bytes, dtype=torch.uint8)
        # The storages are kept, so that no other one can have the same id.
        self.of: dict[int, tuple[UntypedStorage, list[_Note]]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        changes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        part = args[0] if args else named.pop("tensor", None)
        if not changes or not isinstance(part, Tensor) or not part.is_meta:
            return func(*args, **(kwargs or {}))
        others = args[1:]
        assert not any(isinstance(other, Tensor) and other.is_meta for other in (*others, *named.values())), name

        def change(tensor: Tensor) -> object:
            return func(tensor, *others, **named)

        storage = part.untyped_storage()
        note = _Note(change, part.shape, part.stride(), int(part.storage_offset()), torch.get_rng_state())
        self.of.setdefault(id(storage), (storage, []))[1].append(note)
        change(self._scratch.view(part.dtype).as_strided(part.shape, part.stride()))
        return part


def late_filling(model: nn.Module) -> Callable[[str], Tensor]:
    """Return a function that makes the parameter of a name as ``model.reset_parameters()`` fills it.

    Torch's generator is drawn from here, as `reset_parameters` draws from it, and not later.

    Args:
        model: On the meta device, with a ``reset_parameters``.

    Raises:
        TypeError: If a part holds buffers, or parameters without a ``reset_parameters``.
    """
    for name, _ in model.named_buffers():
        raise TypeError(
            f"a model that is filled part by part must have no buffers, which nothing fills, but has {name}; compute "
            "what follows from the config where it is used, or train with hardware.strategy='ddp'."
        )
    parameters = dict(model.named_parameters())
    assert all(parameter.is_meta for parameter in parameters.values())
    largest = max((parameter.numel() * parameter.element_size() for parameter in parameters.values()), default=0)
    notes = _Notes(-(-largest // 16) * 16)  # whole numbers of any dtype
    with torch.no_grad(), notes:
        model.reset_parameters()  # pyright: ignore[reportCallIssue] - a model's own method

    def make(name: str) -> Tensor:
        parameter = parameters[name]
        whole = torch.empty(parameter.shape, dtype=parameter.dtype)
        _, changes = notes.of[id(parameter.untyped_storage())]
        with torch.no_grad(), torch.random.fork_rng([]):
            for note in changes:
                torch.set_rng_state(note.generator)
                note.change(whole.as_strided(note.size, note.stride, note.offset))
        return whole

    return make
