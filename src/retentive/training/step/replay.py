"""Gradients through a long text in the memory of one piece of it (Memformer, arXiv:2010.06891, algorithm 1).

A text is read piece by piece, each a call that takes a state and gives the next. Plain back-propagation keeps the
activations of all pieces until the last is read. Replay keeps the states between them alone: it reads the text once
without a graph, then goes back from the last piece to the first, reads each again with a graph from the state that
entered it, and hands the gradient of that state to the piece before. What it costs is one more forward pass; what it
gives is the same gradient, for any state that is a `RecurrentState`: memory tokens, recalled tokens, caches, matrices.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.nn.parallel import DistributedDataParallel

from retentive.models.base import ModelOutput
from retentive.ops.cross_entropy import IGNORED
from retentive.shapes import TokenMask, Tokens
from retentive.state import ModelState, map_tensors, named_tensors

Loss = Float[Tensor, ""]


@runtime_checkable
class Piece(Protocol):
    """One piece of a text, to be read by a model: the same call in both passes, autocast and masks included."""

    def __call__(self, state: ModelState | None, *, with_loss: bool) -> tuple[Loss | None, ModelState]:
        """Read the piece after ``state``; its share of the loss (None without ``with_loss``) and the next state."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """Some columns of a batch of text, as a `Piece`.

    Attributes:
        model: Reads it; may be wrapped for several processes.
        tokens: What is read.
        labels: What each token should predict, -100 where there is none.
        total_labels: Labels of the whole text (or step): the losses of all pieces add up to the mean over them.
        mask: False at padding.
        starts: True at the first token of a document.
        extra_inputs: What the model reads besides tokens, by the name of its argument.
        context: Makes a context to read in, such as autocast.
    """

    model: nn.Module
    tokens: Tokens
    labels: Tokens
    total_labels: int | Tensor
    mask: TokenMask | None = None
    starts: TokenMask | None = None
    extra_inputs: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    context: Callable[[], AbstractContextManager[object]] = nullcontext

    def __call__(self, state: ModelState | None, *, with_loss: bool) -> tuple[Loss | None, ModelState]:
        """Read it."""
        labels = self.labels if with_loss else None
        with self.context():
            output: ModelOutput = self.model(
                self.tokens, state, labels, mask=self.mask, starts=self.starts, logits_to_keep=0, **self.extra_inputs
            )
            if output.loss is None:
                return None, output.state
            return output.loss * (
                (self.labels != IGNORED).sum().to(output.loss.dtype) / self.total_labels
            ), output.state


def cut_text(
    model: nn.Module,
    tokens: Tokens,
    labels: Tokens,
    *,
    length: int,
    mask: TokenMask | None = None,
    starts: TokenMask | None = None,
    total_labels: int | Tensor | None = None,
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[TextPiece]:
    """Cut a batch of text into pieces of some columns each.

    Args:
        model: Reads them.
        tokens: The whole text.
        labels: What each token should predict, -100 where there is none.
        length: Columns of a piece; for recurrent memory its ``segment_length``, so that a state is memory alone.
        mask: False at padding.
        starts: True at the first token of a document.
        total_labels: Labels of the step that this text is a part of; None counts those of the text.
        context: Makes a context to read in, such as autocast.

    Raises:
        ValueError: If ``length`` is below 1.
    """
    if length < 1:
        raise ValueError(f"length of a piece must be at least 1 token, but is {length}.")
    total = (labels != IGNORED).sum().clamp_min(1) if total_labels is None else total_labels
    return [
        TextPiece(
            model=model,
            tokens=tokens[:, begin : begin + length],
            labels=labels[:, begin : begin + length],
            total_labels=total,
            mask=None if mask is None else mask[:, begin : begin + length],
            starts=None if starts is None else starts[:, begin : begin + length],
            context=context,
        )
        for begin in range(0, tokens.shape[1], length)
    ]


Exchange = Callable[[bool], AbstractContextManager[object]]
"""Makes a context in which gradients are exchanged between processes, or are not."""


def unrolled(
    pieces: Sequence[Piece], state: ModelState | None, *, truncate_after: int | None = None
) -> tuple[Loss, ModelState]:
    """Read pieces that follow one another in one graph: the plain way, which `replay` gives the gradient of.

    Args:
        pieces: At least one.
        state: What the first one goes on from; None begins anew.
        truncate_after: Pieces after which the gradient is cut: it is exactly zero beyond, whatever the loss.

    Returns:
        The sum of the pieces' losses, and the state after the last.

    Raises:
        ValueError: If there is no piece, or ``truncate_after`` is below 1.
    """
    _check(pieces, truncate_after)
    losses: list[Tensor] = []
    for number, piece in enumerate(pieces):
        if state is not None and _is_cut(number, truncate_after):
            state = state.detach()
        loss, state = piece(state, with_loss=True)
        assert loss is not None
        losses.append(loss)
    assert state is not None
    return sum(losses[1:], losses[0]), state


def replay(
    pieces: Sequence[Piece],
    state: ModelState | None,
    *,
    truncate_after: int | None = None,
    scale: float | Tensor = 1.0,
    exchange: Exchange | None = None,
) -> tuple[Loss, ModelState]:
    """Read pieces that follow one another and back-propagate through all of them, in the memory of one.

    Gradients are added to the ``.grad`` of parameters, as ``backward()`` would have added them after `unrolled`, with
    the same random numbers: each piece is read again from the random state that it was read from at first. Call it
    with gradients enabled and outside of autocast (a piece enters it by itself).

    Args:
        pieces: At least one.
        state: What the first one goes on from; None begins anew. Its tensors get gradients if they require them, and
            are not changed.
        truncate_after: Pieces after which the gradient is cut.
        scale: What the loss is multiplied by for the gradients alone, as by a gradient scaler.
        exchange: For several processes: gradients are exchanged in the last backward pass, that of the first piece.

    Returns:
        The sum of the pieces' losses and the state after the last piece, neither with a graph.

    Raises:
        ValueError: If there is no piece, ``truncate_after`` is below 1, gradients are disabled, or the pieces' model is
            refused by `check_replayable`.
    """
    _check(pieces, truncate_after)
    if not torch.is_grad_enabled():
        raise ValueError("replay must be called with gradients enabled, but is inside of no_grad or inference_mode.")
    for model in {id(piece.model): piece.model for piece in pieces if isinstance(piece, TextPiece)}.values():
        check_replayable(model)
    entering, randoms = _read_ahead(pieces, state)
    after_all = randoms[-1]
    losses: list[Tensor] = []
    following: dict[str, Tensor] = {}
    last: ModelState | None = None
    for number in reversed(range(len(pieces))):
        randoms[number].restore()
        begin = entering.pop() if number else state
        if number and begin is not None:
            begin = map_tensors(begin, _leaf)
        with nullcontext() if exchange is None else exchange(number == 0):
            loss, left = pieces[number](begin, with_loss=True)
            assert loss is not None
            _backward(loss * scale, left, following)
        losses.append(loss.detach())
        if last is None:
            last, after_all = left.detach(), _Randomness.now()
        cut = number == 0 or begin is None or _is_cut(number, truncate_after)
        following = {} if cut or begin is None else _gradients(begin)
    after_all.restore()
    assert last is not None
    return sum(reversed(losses[:-1]), losses[-1]), last


def check_replayable(model: nn.Module) -> None:
    """Refuse a model whose forward pass, done twice, is not twice the same.

    Raises:
        ValueError: If it has running statistics, or is wrapped in DDP with a static graph.
    """
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats and module.training:
            raise ValueError(
                f"replay reads each piece twice, which would count it twice in the running statistics of {name}; use "
                "a norm without them, or plain back-propagation."
            )
        if isinstance(module, DistributedDataParallel) and module.static_graph:
            raise ValueError(
                "replay goes backward once for each piece, which DistributedDataParallel(static_graph=True) does not "
                "allow; leave static_graph out."
            )


@dataclass(frozen=True, slots=True)
class _Randomness:
    """Where the generators of random numbers are: the CPU's, and that of each GPU in use."""

    cpu: Tensor
    gpus: tuple[tuple[int, Tensor], ...]

    @classmethod
    def now(cls, earlier: "_Randomness | None" = None) -> "_Randomness":
        """The present state; ``earlier`` itself if nothing was drawn since, for a state takes 5 kB."""
        used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        found = cls(torch.get_rng_state(), tuple((gpu, torch.cuda.get_rng_state(gpu)) for gpu in used))
        return earlier if earlier is not None and found.equals(earlier) else found

    def equals(self, other: "_Randomness") -> bool:
        pairs = zip(self.gpus, other.gpus, strict=True)
        return torch.equal(self.cpu, other.cpu) and all(torch.equal(a, b) for (_, a), (_, b) in pairs)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for gpu, state in self.gpus:
            torch.cuda.set_rng_state(state, gpu)


def _read_ahead(pieces: Sequence[Piece], state: ModelState | None) -> tuple[list[ModelState], list[_Randomness]]:
    """The states that enter the pieces after the first, and the random state that each piece begins with."""
    entering: list[ModelState] = []
    randoms = [_Randomness.now()]
    with torch.no_grad():
        for piece in pieces[:-1]:
            _, state = piece(state, with_loss=False)
            entering.append(state)
            randoms.append(_Randomness.now(randoms[-1]))
    return entering, randoms


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def _gradients(state: ModelState) -> dict[str, Tensor]:
    return {name: tensor.grad for name, tensor in named_tensors(state).items() if tensor.grad is not None}


def _backward(loss: Tensor, left: ModelState, following: dict[str, Tensor]) -> None:
    """One backward pass for both: the piece's own loss, and what later pieces want of the state it left."""
    roots, gradients = [loss], [torch.ones_like(loss)]
    for name, tensor in named_tensors(left).items():
        if name in following and tensor.requires_grad:
            roots.append(tensor)
            gradients.append(following[name])
    torch.autograd.backward(roots, gradients)


def _is_cut(number: int, truncate_after: int | None) -> bool:
    return truncate_after is not None and number > 0 and number % truncate_after == 0


def _check(pieces: Sequence[Piece], truncate_after: int | None) -> None:
    if not pieces:
        raise ValueError("pieces must hold at least one piece of text, but are empty.")
    if truncate_after is not None and truncate_after < 1:
        raise ValueError(f"truncate_after must be at least 1 piece, or None, but is {truncate_after}.")
