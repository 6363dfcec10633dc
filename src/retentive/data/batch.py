"""A batch: rows of tokens and labels for a training step."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from retentive.config_types import check_count
from retentive.ops.cross_entropy import IGNORED as IGNORED  # the label of a position that has no loss
from retentive.shapes import TokenMask, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of tokens with what each should predict.

    Attributes:
        tokens: What the model reads.
        labels: The token that each position should predict, already shifted; ``-100`` where there is none.
        starts: True at the first token of a document, which resets the state.
        extra_inputs: What the model reads besides tokens, by the name of its argument. ``neighbours`` are those of each
            chunk that ends in the batch, (batch, chunks, neighbours, length), row by row in order, -1 where there is no
            token.
    """

    tokens: Tokens
    labels: Tokens
    starts: TokenMask
    extra_inputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        return Batch(
            tokens=self.tokens.to(device),
            labels=self.labels.to(device),
            starts=self.starts.to(device),
            extra_inputs={name: tensor.to(device) for name, tensor in self.extra_inputs.items()},
        )


def rows_of_rank(batch_size: int, rank: int, world: int) -> range:
    """Return the rows of the global batch that one of ``world`` equal ranks reads.

    Raises:
        ValueError: If the rows cannot be shared equally, or there is no such rank.
    """
    if world < 1 or batch_size % world:
        raise ValueError(
            f"batch_size must be a multiple of the number of ranks, but is {batch_size} for {world} ranks."
        )
    if not 0 <= rank < world:
        raise ValueError(f"rank must be from 0 to {world - 1}, but is {rank}.")
    share = batch_size // world
    return range(rank * share, (rank + 1) * share)


def check_batch(window: int, batch_size: int) -> None:
    """Validate the sizes of a batch, before hours are spent on drawing one that no memory holds.

    Raises:
        ValueError: If a size is below 1, or a batch is larger than the memory of this machine.
    """
    check_sizes(window=window, batch_size=batch_size)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if batch_size * window * torch.long.itemsize > memory:
        raise ValueError(
            f"batch_size times window must be tokens that fit into memory ({memory:,} bytes, 8 a token), but is "
            f"{batch_size:,} times {window:,}: make one of them smaller."
        )


def columns_of_part(batch: Batch, part: int, parts: int) -> Batch:
    """Cut the columns of a batch into parts of about equal length, and return one of them.

    Args:
        batch: Tokens alone.
        part: Its number, from 0.
        parts: How many there are.

    Raises:
        ValueError: If the batch has something to read beside tokens, which may belong to no column.
    """
    if parts == 1:
        return batch
    if batch.extra_inputs:
        raise ValueError(
            f"a batch must hold tokens alone to be read in parts, but has {', '.join(batch.extra_inputs)}; share rows "
            "among the processes, and not columns."
        )
    time = batch.tokens.shape[1]
    columns = slice(time * part // parts, time * (part + 1) // parts)
    return Batch(tokens=batch.tokens[:, columns], labels=batch.labels[:, columns], starts=batch.starts[:, columns])


def check_sizes(**sizes: int) -> None:
    """Validate that sizes are whole numbers from 1 on; the message names the one that is not."""
    for name, size in sizes.items():
        check_count(name, size)
