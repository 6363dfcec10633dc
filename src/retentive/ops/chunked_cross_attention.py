"""Chunked cross-attention: each chunk of tokens attends to the neighbours that were found for it (RETRO)."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from retentive.ops.attention import attention
from retentive.shapes import Queries, Values


def chunked_cross_attention(
    query: Queries,
    key: Float[Tensor, "batch chunks heads read key_dim"],
    value: Float[Tensor, "batch chunks heads read value_dim"],
    allowed: Bool[Tensor, "batch chunks read"] | None,
    *,
    chunk_size: int,
    dropout: float = 0.0,
) -> Values:
    """Attend from column ``j`` to the neighbours of chunk ``j // chunk_size`` (Borgeaud et al. 2021, listing 1).

    The softmax runs over all neighbours of a chunk and all their tokens at once. Column 0 is the last token of the
    first chunk, the first token that may know the chunk's neighbours (arXiv:2112.04426, section 2.4): the paper's
    shift by ``chunk_size - 1`` is left to the caller, who chooses the columns.

    Args:
        query: Rotated by their place in the attending chunk plus ``chunk_size - 1``, or not at all; not scaled.
        key: Of each chunk's neighbours, side by side; rotated by their place in the neighbour, or not at all.
        value: The value of each of those tokens.
        allowed: False at padding. A chunk that may read nothing gets zeros. None where all may be read.
        chunk_size: Tokens of a chunk.
        dropout: Probability with which a weight is dropped; 0 outside training.

    Raises:
        ValueError: If the columns are not those of as many chunks as there are keys of.
    """
    batch, chunks, heads = key.shape[:3]
    time = query.shape[2]
    if -(-time // chunk_size) != chunks:
        raise ValueError(
            f"{time} columns are {-(-time // chunk_size)} chunks of {chunk_size}, but key and value are of {chunks}."
        )
    width = time if chunks == 1 else chunk_size
    if chunks * width > time:
        query = nn.functional.pad(query, (0, 0, 0, chunks * width - time))
    query = query.unflatten(2, (chunks, width)).transpose(1, 2).flatten(0, 1)
    seen = None if allowed is None else allowed.flatten(0, 1)[:, None, None].expand(-1, -1, width, -1)
    mixed = attention(query, key.flatten(0, 1), value.flatten(0, 1), allowed=seen, dropout=dropout)
    mixed = mixed.view(batch, chunks, heads, width, -1).transpose(1, 2)
    return mixed.flatten(2, 3)[:, :, :time]
