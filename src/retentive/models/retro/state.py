"""What a RETRO carries from call to call."""

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retentive.config_types import check_count
from retentive.errors import MismatchError
from retentive.layers.chunked_cross_attention import EndedChunks, NeighbourState, RaggedReads, in_dtype_of
from retentive.layers.mixers.protocol import MixerConfig
from retentive.models.layer_states import check_config, check_dtypes, check_facts, layer_facts, state_of_kind
from retentive.models.retro.config import RetroConfig
from retentive.ops.tracing import is_traced
from retentive.state import ModelState, RaggedFields


@dataclass(frozen=True, slots=True, kw_only=True)
class RetroState(ModelState):
    """The mixers' states, the last tokens and the neighbours that are being read.

    Attributes:
        place: Place of each row's next token in its chunk; negative before a document's first chunk.
        recent_tokens: The last tokens of the document, at most ``chunk_size - 1``, at the end of the row: with the next
            ones they make the chunk that neighbours are looked for.
        recent_hidden: Their hidden states in the first layer that reads neighbours, which the encoder reads.
        recent_real: Which of them are there; None where all are.
        neighbours: Of the last chunk that ended, for each layer that reads them: encoded once, as keys and values.
    """

    ragged: ClassVar[RaggedFields] = {"recent_real": {"recent_tokens": 1, "recent_hidden": 1}}

    place: Int[Tensor, "batch"]
    recent_tokens: Int[Tensor, "batch recent"]
    recent_hidden: Float[Tensor, "batch recent hidden"]
    recent_real: Bool[Tensor, "batch recent"] | None = None
    neighbours: tuple[NeighbourState, ...]


def end_chunks_every(state: RetroState, step: int, chunk_size: int) -> RetroState:
    """Let each row's next token end a chunk if ``step`` tokens have passed since the last end, itself included.

    The chunk is made of the last ``chunk_size`` tokens of the document, so neighbours can be looked for more often than
    once a chunk (the retrieval step of arXiv:2304.06762). What is read of them is as if a chunk had always ended there.

    Args:
        state: Of the model.
        step: Tokens from end to end, at most ``chunk_size``.
        chunk_size: Tokens of a chunk.
    """
    check_count("chunk_size", chunk_size, unit="token")
    check_count("step", step, unit="token")
    return replace(state, place=state.place.masked_fill(state.place >= step - 1, chunk_size - 1))


def begin_chunks_late(state: RetroState, lengths: Int[Tensor, "batch"], chunk_size: int, offset: int) -> RetroState:
    """Let a prompt of so many tokens end where a chunk does: its first chunk is the shorter one.

    That is what padding a prompt at its left to a multiple of ``chunk_size`` does (arXiv:2304.06762), without the
    padding being read.

    Args:
        state: From `Retro.initial_state`.
        lengths: Tokens of each row's prompt.
        chunk_size: Tokens of a chunk.
        offset: Tokens of a document before its first chunk.
    """
    check_count("chunk_size", chunk_size, unit="token")
    check_count("offset", offset, least=0)
    return replace(state, place=(offset - lengths.to(state.place)) % chunk_size - offset)


def after_call(
    carried: NeighbourState, ended: EndedChunks | None, num_ended: int, ragged: RaggedReads | None
) -> NeighbourState:
    """The neighbours that the next token reads, for one layer.

    Args:
        carried: Those that the call began with.
        ended: Those of the chunks that ended in it; None where none were given.
        num_ended: Chunks that ended.
        ragged: Which row is where; None where rows agree.
    """
    if ragged is None:
        if not num_ended:
            return carried
        if ended is None:
            return _nothing_like(carried)
        # Copies: views would keep the neighbours of all chunks of the call in memory.
        real = None if ended.real is None else ended.real[:, -1].clone()
        return NeighbourState(key=ended.key[:, -1].clone(), value=ended.value[:, -1].clone(), real=real)
    kept = carried.mask & ragged.keeps_carried[:, None]
    if ended is None:
        return _trimmed(NeighbourState(key=carried.key, value=carried.value, real=kept))
    carried = in_dtype_of(carried, ended.key)
    row = torch.arange(len(ragged.last), device=ragged.last.device)
    last = ragged.last.clamp_min(0)
    new_real = ended.mask[row, last] & (ragged.last >= 0)[:, None]
    length = max(carried.key.shape[2], ended.key.shape[3])
    keeps = ragged.keeps_carried
    return _trimmed(
        NeighbourState(
            key=torch.where(
                keeps[:, None, None, None], _longer(carried.key, length, 2), _longer(ended.key[row, last], length, 2)
            ),
            value=torch.where(
                keeps[:, None, None, None],
                _longer(carried.value, length, 2),
                _longer(ended.value[row, last], length, 2),
            ),
            real=torch.where(keeps[:, None], _longer(kept, length, 1), _longer(new_real, length, 1)),
        )
    )


def _longer(values: Tensor, length: int, dim: int) -> Tensor:
    """Add empty entries before those that are there."""
    shape = (*values.shape[:dim], length - values.shape[dim], *values.shape[dim + 1 :])
    return torch.cat((values.new_zeros(shape), values), dim)


def _trimmed(state: NeighbourState) -> NeighbourState:
    """Nothing at all where no row has a neighbour."""
    return state if bool(state.mask.any()) else _nothing_like(state)


def _nothing_like(state: NeighbourState) -> NeighbourState:
    """No neighbours; a slice of those that were read would keep them in memory."""
    return NeighbourState(key=state.key[:, :, :0].clone(), value=state.value[:, :, :0].clone())


def check_state(config: RetroConfig, dtype: torch.dtype, state: object) -> RetroState:
    """Validate that a state is of a model of this config, by types, shapes and configs.

    Raises:
        MismatchError: If it is not; the message says what differs.
    """
    state = state_of_kind(state, RetroState, "a RETRO")
    wanted = _facts(config)
    held = state.neighbours[0].key.shape if state.neighbours else None
    facts = (
        ("layers that read neighbours", len(config.cross_layers), len(state.neighbours)),
        ("heads and channels of neighbours", wanted.heads, held and (held[1], held[3])),
        ("channels of recent tokens", wanted.hidden_size, state.recent_hidden.shape[2]),
    )
    check_facts((*layer_facts(wanted.mixers, state), *facts))
    if state.recent_tokens.shape[1] >= config.chunk_size:
        raise MismatchError(
            f"state must remember fewer tokens than a chunk, {config.chunk_size}, but has "
            f"{state.recent_tokens.shape[1]}; it is of a model with longer chunks."
        )
    check_config(config, state)
    check_dtypes(dtype, state, {"recent_hidden": state.recent_hidden})
    _check_place(config, state)
    return state


def _check_place(config: RetroConfig, state: RetroState) -> None:
    """Validate that the next token stands in a chunk, or before the first one.

    This reads values, so it is done only for ordinary tensors on the CPU, where nothing is waited for.
    """
    if is_traced() or type(state.place) is not Tensor or state.place.device.type != "cpu":
        return
    least, most = -config.chunk_offset, config.chunk_size - 1
    if not all(least <= place <= most for place in state.place.tolist()):
        raise MismatchError(
            f"state must have places in a chunk, from {least} to {most}, but has {state.place.tolist()}; take it from "
            "this model's output."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a model's state must have: its mixers, the shape of the neighbours' keys and values, and the width."""

    mixers: tuple[MixerConfig, ...]
    heads: tuple[int, int]
    hidden_size: int


# Cached: it is needed before every call, and a config makes its parts anew at each access.
@cache
def _facts(config: RetroConfig) -> _Facts:
    cross, decoder = config.cross_attention, config.decoder
    return _Facts(mixers=decoder.mixers, heads=(cross.num_heads, cross.head_dim), hidden_size=config.hidden_size)
