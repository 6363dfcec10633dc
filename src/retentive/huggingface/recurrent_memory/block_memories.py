"""An associative memory beside each block of a Hugging Face model (Rodkin et al. 2024, arXiv:2407.04841).

Hooks stand on the blocks while columns are read: the model itself stays as it is, for other callers too.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, cast

import torch
from torch import Tensor, nn

from retentive.layers.memory.associative import AssociativeMemory, AssociativeState
from retentive.models.rmt.segment_parts import Rows
from retentive.models.rmt.transitions import association_after
from retentive.private_apis import is_called_compiled, is_from_compile


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """The blocks of a model of transformers, in order.

    Raises:
        ValueError: If they do not stand in one list.
    """
    model: Any = backbone
    bare = model.get_base_model() if hasattr(model, "peft_config") else model
    number = bare.config.get_text_config().num_hidden_layers
    for module in cast("nn.Module", bare.get_decoder()).modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return list(module)
    raise ValueError(
        f"backbone must have its {number} blocks in one list for an associative memory beside each, but this "
        f"{type(bare).__name__} has not; take memory='tokens'."
    )


def check_can_be_hooked(backbone: nn.Module) -> None:
    """Validate that hooks on a model's blocks act whenever it is called.

    Raises:
        ValueError: If the model is compiled: it would go on without them, or with those of a former call.
    """
    if any(is_from_compile(part) or is_called_compiled(part) for part in backbone.modules()):
        raise ValueError(
            "backbone must not be compiled for an associative memory, which acts by hooks on its blocks; give the "
            "model as it was before torch.compile."
        )


@contextmanager
def beside_blocks(
    blocks: Sequence[nn.Module],
    memories: Sequence[AssociativeMemory],
    before: Sequence[AssociativeState],
    *,
    slots: int,
    ends: Rows,
) -> Generator[list[AssociativeState]]:
    """Let each block read what its memory recalls, and its memory store what the block made of the write slots.

    Args:
        blocks: Of the model, which is called once within.
        memories: Of each block; none, and nothing is done.
        before: What they hold.
        slots: Columns at the end that are write slots; 0 where no segment ends.
        ends: Rows whose segment ends.

    Yields:
        What the memories hold afterwards, complete when the model has returned.

    Raises:
        ValueError: If the model does not call each block once with its hidden states, or would call one again in the
            backward pass, when the hooks are gone.
    """
    call = _Call(blocks=blocks, memories=memories, before=before, slots=slots, ends=ends)
    handles: list[Any] = []
    try:
        for block, _ in zip(blocks, memories, strict=False):
            handles.append(block.register_forward_pre_hook(call.recall, with_kwargs=True))
            handles.append(block.register_forward_hook(call.store))
        yield call.after
    finally:
        for handle in handles:
            handle.remove()
    if len(call.after) != len(memories):
        raise ValueError(_NOT_ONCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call of a model, and the hooks on its blocks; see `beside_blocks`."""

    blocks: Sequence[nn.Module]
    memories: Sequence[AssociativeMemory]
    before: Sequence[AssociativeState]
    slots: int
    ends: Rows
    after: list[AssociativeState] = field(default_factory=list[AssociativeState])
    thread: int = field(default_factory=get_ident)

    def recall(self, block: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Add what a block's memory recalls to what the block reads."""
        if get_ident() != self.thread:
            return None  # another caller of the model
        number = len(self.after)
        _check_is_called_once(block, self.blocks, number)
        hidden = args[0] if args else options.get("hidden_states")
        memory = self.memories[number]
        if not isinstance(hidden, Tensor) or hidden.dim() != 3 or hidden.shape[2] != memory.config.hidden_size:
            raise ValueError(
                f"a block of the backbone must read hidden states of {memory.config.hidden_size} channels, as tokens "
                f"have, for an associative memory beside it, but a {type(block).__name__} does not; take "
                "memory='tokens'."
            )
        recalled = memory(_as_weights(hidden, memory), self.before[number])
        hidden = hidden + recalled.to(hidden.device, hidden.dtype)
        return ((hidden, *args[1:]), options) if args else (args, {**options, "hidden_states": hidden})

    def store(self, _block: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        """Store what a block made of the write slots."""
        if get_ident() != self.thread:
            return
        hidden: Tensor = output if isinstance(output, Tensor) else output[0]
        memory, before = self.memories[len(self.after)], self.before[len(self.after)]
        written = _as_weights(hidden[:, hidden.shape[1] - self.slots :], memory)
        self.after.append(association_after(memory, written, before, self.ends))


def _check_is_called_once(block: nn.Module, blocks: Sequence[nn.Module], number: int) -> None:
    """Validate that a block is called in its turn, and within no call that the backward pass repeats."""
    if number >= len(blocks) or blocks[number] is not block:
        raise ValueError(_NOT_ONCE)
    repeats = getattr(block, "gradient_checkpointing", False) and block.training and torch.is_grad_enabled()
    # Where `forward` alone is repeated, hooks act once. Before transformers 5.10 the whole call was.
    if repeats and type(block).__call__ is not nn.Module.__call__:
        raise ValueError(
            "backbone must not compute blocks again in the backward pass, which would leave out their associative "
            "memories; call backbone.gradient_checkpointing_disable(), or install a newer transformers."
        )


_NOT_ONCE = (
    "backbone must call each of its blocks once, in order, for an associative memory beside each, but does not; take "
    "memory='tokens'."
)


def _as_weights(hidden: Tensor, memory: AssociativeMemory) -> Tensor:
    weight = memory.query_proj.weight
    return hidden.to(weight.device, weight.dtype)
