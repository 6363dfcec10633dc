"""What a recurrent memory carries from call to call."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retentive.errors import MismatchError
from retentive.layers.memory.associative import AssociativeState
from retentive.models.layer_states import check_config, check_dtypes, check_facts, layer_facts, state_of_kind
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.ops.tracing import is_traced
from retentive.shapes import Memory
from retentive.state import ModelState, RaggedFields


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentMemoryState(ModelState):
    """The memory, and the segment that is not finished.

    Beside what a `ModelState` has, whose ``layers`` hold the key-value cache (or retention state) of the unfinished
    segment and whose ``position`` counts the tokens of the document:

    Attributes:
        memory: The memory tokens that the unfinished segment read, and its write slots will start from.
        segment: The unfinished segment's tokens, at the end of the row.
        real: Which of them are real; None where all rows have read equally many.
        history: Each block's inputs (or outputs) for the last tokens of the segment before, or of the unfinished
            one once it has begun.
        history_real: Which of those tokens are real; None where all are.
        associations: The associative memory of each block; empty without one.
    """

    ragged: ClassVar[RaggedFields] = {"real": {"segment": 1}, "history_real": {"history": 2}}

    memory: Memory
    segment: Int[Tensor, "batch unfinished"]
    real: Bool[Tensor, "batch unfinished"] | None = None
    history: Float[Tensor, "batch num_layers recalled hidden"]
    history_real: Bool[Tensor, "batch recalled"] | None = None
    associations: tuple[AssociativeState, ...] = ()

    @property
    def is_ragged(self) -> bool:
        """Whether rows stand at different places of their segments."""
        return self.real is not None or self.history_real is not None


def check_state(config: RecurrentMemoryConfig, dtype: torch.dtype, state: object) -> RecurrentMemoryState:
    """Validate that a state is of a model of this config, by types, shapes and configs.

    Raises:
        MismatchError: If it is not; the message says what differs.
    """
    state = state_of_kind(state, RecurrentMemoryState, "a recurrent memory")
    hidden, layers = config.decoder.embedding.hidden_size, config.decoder.num_layers
    associative = config.associative_memory
    features = None if associative is None else (layers, associative.num_features)
    held = None if not state.associations else (len(state.associations), state.associations[0].matrix.shape[1])
    facts = (
        ("memory tokens", config.carried_tokens, state.memory.shape[1]),
        ("channels of a memory token", hidden, state.memory.shape[2]),
        ("layers of recalled tokens", layers, state.history.shape[1]),
        ("channels of a recalled token", hidden, state.history.shape[3]),
        ("layers and features of associative memory", features, held),
    )
    check_facts((*facts, *layer_facts(() if config.bidirectional else config.decoder.mixers, state)))
    for name, limit, found in (
        ("an unfinished segment below segment_length", config.segment_length - 1, state.segment.shape[1]),
        ("recalled tokens up to xl_length", config.xl_length, state.history.shape[2]),
    ):
        if found > limit:
            raise MismatchError(
                f"state must have {name}, at most {limit} tokens here, but has {found}; it is of a model with other "
                "segments."
            )
    _check_place(config, state)
    check_config(config, state)
    check_dtypes(dtype, state, {"history": state.history})
    return state


def _check_place(config: RecurrentMemoryConfig, state: RecurrentMemoryState) -> None:
    """Validate that the unfinished segment has the length that follows from the position.

    This reads values, so it is done only for ordinary tensors on the CPU, where nothing is waited for.
    """
    if is_traced() or type(state.position) is not Tensor or state.position.device.type != "cpu":
        return
    unfinished = state.segment.shape[1] if state.real is None else state.real.sum(1)
    if bool((state.position % config.segment_length != unfinished).any()):
        raise MismatchError(
            f"state must be of a model with segment_length = {config.segment_length}, after whose "
            f"{state.position.tolist()} tokens other unfinished segments would be left than "
            f"{unfinished if isinstance(unfinished, int) else unfinished.tolist()}; it is of a model with other "
            "segments."
        )
