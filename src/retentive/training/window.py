"""One window of a batch, where the model is: what an objective reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from retentive.data.batch import IGNORED, Batch
from retentive.shapes import TokenMask, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Some columns of each row, on the model's device.

    Attributes:
        tokens: What the model reads.
        labels: The token that the model should predict at each position, -100 where there is none.
        starts: True at the first token of a document; None where no document begins, which is cheaper.
        num_labels: Labels that are not -100.
        mask: False at padding; None where there is no padding.
        extra_inputs: What the model reads besides tokens, by the name of its argument; see `Batch`.
    """

    tokens: Tokens
    labels: Tokens
    starts: TokenMask | None
    num_labels: int | Int[Tensor, ""]
    mask: TokenMask | None = None
    extra_inputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


def place(batch: Batch, device: torch.device, *, carries_state: bool, keeps_starts: bool = False) -> Window:
    """Move a batch to a device. Its labels and starts are counted before, on the CPU, where this is cheap.

    Args:
        batch: On the CPU.
        device: Where the model is.
        carries_state: Whether the rows go on from earlier windows. If not, every row begins anew anyway, so a document
            that begins in the first column needs no mark.
        keeps_starts: Pass ``starts`` even where none is True, so that a state that records them keeps its parts.
    """
    columns = batch.starts if carries_state else batch.starts[:, 1:]
    needed = keeps_starts or bool(columns.any())
    return Window(
        tokens=batch.tokens.to(device),
        labels=batch.labels.to(device),
        starts=batch.starts.to(device) if needed else None,
        num_labels=int((batch.labels != IGNORED).sum()),
        extra_inputs={name: tensor.to(device) for name, tensor in batch.extra_inputs.items()},
    )
