"""Chunks of tokens and the passes over them that retention with any decay has in common."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.precision import without_autocast
from retentive.ops.retention.decay import DecayTables
from retentive.shapes import RetentionMatrix, TokenFlags

DEFAULT_CHUNK_SIZE = 64

Chunks = Float[Tensor, "batch heads chunks size dim"]
ValueChunks = Float[Tensor, "batch heads chunks size value_dim"]
ChunkStates = Float[Tensor, "batch heads chunks key_dim value_dim"]


def check_chunk_size(chunk_size: int) -> None:
    """Validate ``chunk_size``.

    Raises:
        ValueError: If it is not an integer of at least 1.
    """
    if type(chunk_size) is not int or chunk_size < 1:
        raise ValueError(f"chunk_size must be a whole number of tokens, at least 1, but is {chunk_size!r}.")


def piece_lengths(time: int, chunk_size: int) -> list[int]:
    """Tokens in whole chunks, then the remainder; without the one that is 0.

    A remainder is one more chunk, a shorter one, so that nothing decays through a filler.
    """
    whole = time - time % chunk_size
    return [length for length in (whole, time - whole) if length]


def split_time(tensor: Tensor, lengths: list[int], dim: int = 2) -> Sequence[Tensor]:
    """Split dimension ``dim`` into pieces of these lengths."""
    # `Tensor.split` into a single piece would copy the gradient.
    return [tensor] if len(lengths) == 1 else tensor.split(lengths, dim)


def split_flags(flags: TokenFlags, lengths: list[int]) -> Sequence[Tensor | None]:
    """Split the time of ``mask`` or ``starts``, where there is one."""
    return [None] * len(lengths) if flags is None else split_time(flags, lengths, 1)


def in_chunks(tensor: Tensor, size: int, dim: int = 2) -> Tensor:
    """Split dimension ``dim``, time, into chunks of ``size`` tokens, contiguous in memory."""
    return tensor.unflatten(dim, (-1, size)).contiguous()


def read_chunks(
    query: Chunks, key: Chunks, value: ValueChunks, state: RetentionMatrix | None, tables: DecayTables
) -> tuple[ValueChunks, RetentionMatrix, ChunkStates]:
    """Compute the outputs, the last state, and the state that each chunk meets (arXiv:2307.08621, eq. 7).

    Decays of single tokens scale the rows of a finished product in place wherever they can, instead of a copy of its
    factors, and tables stay float32 where the inputs are bfloat16.
    """
    with without_autocast(query.device):
        added = torch.bmm(flat(scaled(key, tables.key)).mT, flat(value))
        states = added.view(*key.shape[:3], key.shape[4], value.shape[4]).to(tables.chunk.dtype)
        after = carry(states, state, tables.chunk)
        output = torch.bmm(flat(query), flat(states.to(query.dtype)))
        output.view_as(value).mul_(tables.query)
        scores = torch.bmm(flat(query), flat(key).mT)
        decay_scores(scores, tables.intra, query)
        output.baddbmm_(scores, flat(value))
    return output.view_as(value), after, states


def read_chunks_plainly(
    query: Chunks, key: Chunks, value: ValueChunks, state: RetentionMatrix | None, tables: DecayTables
) -> tuple[ValueChunks, RetentionMatrix]:
    """`read_chunks` in plain operations, which can be traced and differentiated in any way, any number of times.

    Returns:
        The outputs and the last state.
    """
    with without_autocast(query.device):
        added = (key * tables.key).to(key.dtype).mT @ value
        states, after = _carry_at_once(added.to(tables.chunk.dtype), state, tables.chunk)
        scores = ((query @ key.mT) * tables.intra).to(query.dtype)
        output = ((query @ states.to(query.dtype)) * tables.query).to(query.dtype) + scores @ value
    return output, after


def in_filled_chunks(tensor: Tensor, size: int, dim: int = 2) -> Tensor:
    """Split dimension ``dim``, time of any length, into chunks of ``size``; zeros (False) fill up the last one."""
    time = tensor.shape[dim]
    count = (time + size - 1) // size
    if torch.compiler.is_exporting():
        # torch cannot prove for every length that a filling fits; what is looked up needs no proof. It would also take
        # a single chunk for all there ever are.
        columns = torch.arange(size, device=tensor.device)
        places = size * torch.arange(count + 1, device=tensor.device)[:, None] + columns
        longer = torch.cat((tensor, tensor.new_zeros((*tensor.shape[:dim], 1, *tensor.shape[dim + 1 :]))), dim)
        return longer[(slice(None),) * dim + (places.clamp_max(time),)]
    filling = tensor.new_zeros((*tensor.shape[:dim], count * size - time, *tensor.shape[dim + 1 :]))
    return torch.cat((tensor, filling), dim).unflatten(dim, (count, size))


def without_filling(tensor: Tensor, time: int, dim: int = 2) -> Tensor:
    """Undo `in_filled_chunks` where its chunks are joined again."""
    if torch.compiler.is_exporting():
        return tensor.index_select(dim, torch.arange(time, device=tensor.device))
    return tensor.narrow(dim, 0, time)


class ChunkGradients(NamedTuple):
    """What `chunk_gradients` returns."""

    query: Chunks
    key: Chunks
    value: ValueChunks
    state: RetentionMatrix
    log_decay: Float[Tensor, "batch heads chunks size"] | None


def chunk_gradients(
    query: Chunks,
    key: Chunks,
    value: ValueChunks,
    states: ChunkStates,
    tables: DecayTables,
    d_output: ValueChunks | None,
    d_after: RetentionMatrix | None,
    *,
    of_decay: bool = False,
) -> ChunkGradients:
    """Compute the gradients of `read_chunks`; with ``of_decay``, that of each token's ``log(gamma)`` too.

    Args:
        query: As `read_chunks` got it, like key, value and tables.
        key: As `read_chunks` got it.
        value: As `read_chunks` got it.
        states: The state that each chunk met.
        tables: As `read_chunks` got them.
        d_output: Gradient of the outputs; None is 0.
        d_after: Gradient of the last state; None is 0.
        of_decay: Whether the decays need a gradient.
    """
    d_output = torch.zeros_like(value) if d_output is None else d_output.contiguous()
    q, k, v, d_o = flat(query), flat(key), flat(value), flat(d_output)
    with without_autocast(query.device):
        d_query = scaled(query, tables.query)
        d_states = torch.bmm(flat(d_query).mT, d_o).view_as(states).to(states.dtype)
        d_state = carry(d_states, d_after, tables.chunk, backwards=True)
        d_s = flat(d_states.to(query.dtype))
        scores = torch.bmm(d_o, v.mT)
        decay_scores(scores, tables.intra, query)
        torch.bmm(d_o, flat(states.to(query.dtype)).mT, out=flat(d_query))
        d_query.mul_(tables.query)
        read = _dot(query.to(states.dtype), d_query.to(states.dtype)) if of_decay else None
        flat(d_query).baddbmm_(scores, k)
        d_key = torch.bmm(v, d_s.mT).view_as(key).mul_(tables.key)
        written = _dot(key.to(states.dtype), d_key.to(states.dtype)) if of_decay else None
        flat(d_key).baddbmm_(scores.mT, q)
        products = torch.bmm(q, k.mT, out=None if of_decay else scores)
        d_log_decay = None
        if read is not None and written is not None:
            pairs = scores.to(states.dtype).mul_(products).view(*read.shape, -1)
            pairs.diagonal(0, 3, 4).zero_()
            carried = tables.chunk.squeeze(-1) * _dot(d_states, states).sum(3, keepdim=True)
            d_log_decay = decay_gradient(read + pairs.sum(4) - pairs.sum(3), written, carried)
        decay_scores(products, tables.intra, query)
        d_value = torch.bmm(k, d_s).view_as(value)
        flat(d_value.mul_(tables.key)).baddbmm_(products.mT, d_o)
    return ChunkGradients(d_query, d_key, d_value, d_state, d_log_decay)


def decay_gradient(
    read: Float[Tensor, "batch heads chunks size"],
    written: Float[Tensor, "batch heads chunks size"],
    carried: Float[Tensor, "batch heads chunks 1"],
) -> Float[Tensor, "batch heads chunks size"]:
    """Sum for each token what passes through its decay: all that later queries read of earlier keys.

    The shorter way sums ``query . d_query - key . d_key`` over the later tokens. There, what a token reads of its own
    key is added and subtracted again, and under strong decays rounding is all that is left.

    Args:
        read: The loss's share of each query, and all that it reads but its own key, less that of each key and the later
            queries of its chunk.
        written: The share of each key and what comes after its chunk.
        carried: The share of the state before each chunk and what comes after it.
    """
    later = read.double().flip(3).cumsum(3).flip(3)
    earlier = written.double().cumsum(3).roll(1, 3)
    earlier[..., 0] = 0
    return later + earlier + carried


def _dot(first: Float[Tensor, "*rows dim"], second: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows"]:
    """Dot products along the last dimension, as matrix products: their single terms are not written to memory."""
    rows = torch.bmm(first.reshape(-1, 1, first.shape[-1]), second.reshape(-1, first.shape[-1], 1))
    return rows.view(first.shape[:-1])


def flat(chunks: Chunks) -> Float[Tensor, "all_chunks size dim"]:
    """All chunks of all heads and rows as one batch of matrices."""
    return chunks.flatten(0, 2)


def scaled(chunks: Chunks, decay: Tensor) -> Chunks:
    """``chunks * decay``, multiplied in the dtype of the decay and kept in that of the chunks."""
    return torch.mul(chunks, decay, out=torch.empty_like(chunks))


def decay_scores(scores: Float[Tensor, "all_chunks size size"], intra: Tensor, chunks: Chunks) -> None:
    """Weigh the scores by the decay in between, in place, and remove those of later keys."""
    scores.view(*chunks.shape[:3], *scores.shape[1:]).mul_(intra)


def carry(added: ChunkStates, first: RetentionMatrix | None, decay: Tensor, backwards: bool = False) -> RetentionMatrix:
    """Run ``state = decay * state + added`` over the chunks.

    What each chunk adds is replaced, in place, by the state that it meets; the last state is returned.
    """
    steps = list(zip(added.unbind(2), decay.expand(-1, -1, added.shape[2], -1, -1).unbind(2), strict=True))
    state = torch.zeros_like(added[:, :, 0]) if first is None else first
    for chunk, fading in reversed(steps) if backwards else steps:
        following = torch.addcmul(chunk, state, fading)
        chunk.copy_(state)
        state = following
    return state


def _carry_at_once(
    added: ChunkStates, first: RetentionMatrix | None, decay: Float[Tensor, "rows heads #chunks 1 1"]
) -> tuple[ChunkStates, RetentionMatrix]:
    """`carry` as one product with a matrix of decays, quadratic in the chunks: no loop over how many there are.

    Returns:
        The state that each chunk meets, and the last one.
    """
    floor = math.log(torch.finfo(decay.dtype).tiny)
    rate = decay[..., 0, 0].double().clamp_min(torch.finfo(decay.dtype).tiny).log()
    clock = rate.expand(*rate.shape[:2], added.shape[2]).cumsum(2)
    # The state that a chunk meets stands before its decay; the last state after all of them.
    at = torch.cat((clock - rate, clock[:, :, -1:]), 2)
    elapsed = (at.unsqueeze(3) - clock.unsqueeze(2)).clamp_max(0)
    weight = elapsed.exp().masked_fill(elapsed <= 0.99 * floor, 0).tril(-1).to(added.dtype)
    states = (weight @ added.flatten(3)).unflatten(3, added.shape[3:])
    if first is not None:
        left = at.exp().masked_fill(at <= 0.99 * floor, 0).to(added.dtype)
        states = states + left[..., None, None] * first.unsqueeze(2)
    return states[:, :, :-1], states[:, :, -1]
