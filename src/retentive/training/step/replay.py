"""Gradients through a long text in the memory of one piece of it (Memformer, arXiv:2010.06891, algorithm 1).

A text is read piece by piece; each is a call that takes a state and returns the next. Plain back-propagation keeps the
activations of all pieces until the last is read. Replay keeps the states between them alone: it reads the text once
without a graph, then goes back from the last piece to the first, reads each again with a graph from the state that
entered it, and hands the gradient of that state to the piece before. What it costs is one more forward pass; what it
gives is the same gradient, for any state that is a `RecurrentState`: memory tokens, recalled tokens, caches, matrices.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from retentive.state import RecurrentState, map_tensors, named_tensors
from retentive.training.step.pieces import Loss, Piece, TextPiece, check_pieces, is_cut

Exchange = Callable[[bool], AbstractContextManager[object]]
"""Makes a context in which gradients are exchanged between processes, or are not."""


def replay(
    pieces: Sequence[Piece],
    state: RecurrentState | None,
    *,
    truncate_after: int | None = None,
    scale: float | Tensor = 1.0,
    exchange: Exchange | None = None,
) -> tuple[Loss, RecurrentState]:
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
    check_pieces(pieces, truncate_after)
    if not torch.is_grad_enabled():
        raise ValueError("replay must be called with gradients enabled, but is inside of no_grad or inference_mode.")
    for model in {id(piece.model): piece.model for piece in pieces if isinstance(piece, TextPiece)}.values():
        check_replayable(model)
    entering, randoms = _read_ahead(pieces, state)
    after_all = randoms[-1]
    losses: list[Tensor] = []
    following: dict[str, Tensor] = {}
    last: RecurrentState | None = None
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
        cut = number == 0 or begin is None or is_cut(number, truncate_after)
        following = {} if cut or begin is None else _gradients(begin)
    after_all.restore()
    assert last is not None
    return sum(reversed(losses[:-1]), losses[-1]), last


def check_replayable(model: nn.Module) -> None:
    """Validate that a repeated forward pass of a model gives the same result.

    Raises:
        ValueError: If it has running statistics, or is wrapped in DDP with a static graph.
    """
    for name, module in model.named_modules():
        # torch's norms over batches and over instances
        if getattr(module, "track_running_stats", False) and module.training:
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
    """States of the random number generators of the CPU and of each GPU in use."""

    cpu: Tensor
    gpus: tuple[tuple[int, Tensor], ...]

    @classmethod
    def now(cls, earlier: "_Randomness | None" = None) -> "_Randomness":
        """Return the current states, or ``earlier`` if nothing was drawn since: a state takes 5 kB."""
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


def _read_ahead(
    pieces: Sequence[Piece], state: RecurrentState | None
) -> tuple[list[RecurrentState], list[_Randomness]]:
    """Read all pieces but the last without a graph.

    Returns:
        The states that enter the pieces after the first, and the random state that each piece begins with.
    """
    entering: list[RecurrentState] = []
    randoms = [_Randomness.now()]
    with torch.no_grad():
        for piece in pieces[:-1]:
            _, state = piece(state, with_loss=False)
            entering.append(state)
            randoms.append(_Randomness.now(randoms[-1]))
    return entering, randoms


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())


def _gradients(state: RecurrentState) -> dict[str, Tensor]:
    return {name: tensor.grad for name, tensor in named_tensors(state).items() if tensor.grad is not None}


def _backward(loss: Tensor, left: RecurrentState, following: dict[str, Tensor]) -> None:
    """Back-propagate a piece's loss and the gradient of the state that it passed on, in one backward pass."""
    roots, gradients = [loss], [torch.ones_like(loss)]
    for name, tensor in named_tensors(left).items():
        if name in following and tensor.requires_grad:
            roots.append(tensor)
            gradients.append(following[name])
    torch.autograd.backward(roots, gradients)
