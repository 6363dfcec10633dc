"""The check of the neighbours that a call is given."""

import torch
from torch import Tensor


def check_neighbours(
    neighbours: Tensor, neighbour_mask: Tensor | None, batch: int, num_ended: int, chunk_size: int
) -> None:
    """Validate that neighbours are of the chunks that end in a call, by shapes and dtypes alone."""
    for name, given in (("neighbours", neighbours), ("neighbour_mask", neighbour_mask)):
        if not isinstance(given, Tensor | None):
            raise TypeError(f"{name} must be a tensor, but is a {type(given).__name__}; give torch.tensor({name}).")
    shape = tuple(neighbours.shape)
    if neighbours.ndim not in (3, 4):
        raise ValueError(
            "neighbours must be (batch, chunks, k, length), or (batch, chunks, length) for one neighbour a chunk, but "
            f"have shape {shape}."
        )
    if neighbours.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"neighbours must be integer ids (int64 or int32), but are {neighbours.dtype}.")
    if shape[0] != batch:
        raise ValueError(f"neighbours must have one row for each row of tokens, {batch}, but have {shape[0]}.")
    if shape[1] != num_ended:
        raise ValueError(
            f"neighbours must be of the {num_ended} chunks of {chunk_size} tokens that end in this call, but are of "
            f"{shape[1]}; model.ended_chunks(tokens, state) gives the chunks to look up, and -1 stands where a chunk "
            "has none."
        )
    if shape[-1] < chunk_size:
        raise ValueError(
            f"every neighbour must be at least as long as a chunk, {chunk_size} tokens, but they have {shape[-1]}; "
            "fill them up with -1, or look in a datastore of this chunk_size."
        )
    if neighbour_mask is not None and (neighbour_mask.shape != neighbours.shape or neighbour_mask.dtype != torch.bool):
        raise ValueError(
            f"neighbour_mask must be torch.bool of the shape of neighbours, {shape}, but is {neighbour_mask.dtype} of "
            f"{tuple(neighbour_mask.shape)}."
        )
