"""Truncated back-propagation: the one place of the library that cuts gradients between windows of a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.data.batch import IGNORED, Batch
from retentive.models.base import ModelOutput
from retentive.shapes import TokenMask, Tokens
from retentive.state import ModelState


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window of each row, where the model is.

    Attributes:
        tokens: What the model reads.
        labels: The token that each position should predict, -100 where there is none.
        starts: True at the first token of a document; None where no document begins, which is cheaper.
        num_labels: Labels that are not -100.
        extra_inputs: What the model reads besides tokens, by the name of its argument; see `Batch`.
    """

    tokens: Tokens
    labels: Tokens
    starts: TokenMask | None
    num_labels: int
    extra_inputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


def place(batch: Batch, device: torch.device, *, carries_state: bool, keeps_starts: bool = False) -> Window:
    """Move a batch to a device, after looking at it where looking is cheap.

    Args:
        batch: On the CPU.
        device: Where the model is.
        carries_state: Whether the rows go on from earlier windows. A document that begins in the first column says
            nothing to a row that begins there anyway.
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


def unroll(
    model: nn.Module, windows: Sequence[Window], state: ModelState | None, *, total_labels: int
) -> tuple[Float[Tensor, ""], ModelState]:
    """Read windows that follow one another, in one graph.

    The state goes from window to window and gradients flow back along it through all of them; they stop at the state
    that came in, and the state that is returned keeps no graph. So a run over a long text, some windows a call, has
    exactly zero gradient beyond the windows of a call, while the memory itself reaches to the begin of the text.

    Args:
        model: A language model, or the same wrapped for several processes.
        windows: At least one.
        state: Where the last call stopped; None begins anew.
        total_labels: Labels of the whole step, over all processes and parts of the batch.

    Returns:
        The sum of the labels' cross-entropies divided by ``total_labels`` (so that the losses of all calls of a step
        add up to the mean over its labels), and the state after the last window.
    """
    carried = None if state is None else state.detach()
    losses: list[Tensor] = []
    for window in windows:
        output: ModelOutput = model(
            window.tokens, carried, window.labels, starts=window.starts, logits_to_keep=0, **window.extra_inputs
        )
        assert output.loss is not None
        losses.append(output.loss * (window.num_labels / total_labels))
        carried = output.state
    assert carried is not None
    return sum(losses[1:], losses[0]), carried.detach()
