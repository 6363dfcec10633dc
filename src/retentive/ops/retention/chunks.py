"""Chunks of tokens and the passes over them that retention with any decay has in common."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.precision import without_autocast
from retentive.ops.retention.decay import DecayTables
from retentive.shapes import RetentionMatrix, TokenMask

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


def split_flags(flags: TokenMask | None, lengths: list[int]) -> Sequence[Tensor | None]:
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
