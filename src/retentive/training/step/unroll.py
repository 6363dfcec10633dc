"""Back-propagation through pieces of text in one graph, and where it is truncated."""

from collections.abc import Sequence

from torch import Tensor

from retentive.state import RecurrentState
from retentive.training.step.pieces import Loss, Piece, check_pieces, is_cut


def unrolled(
    pieces: Sequence[Piece], state: RecurrentState | None, *, truncate_after: int | None = None
) -> tuple[Loss, RecurrentState]:
    """Read pieces that follow one another in one graph.

    The state goes from piece to piece and gradients flow back along it through all of them, and into the state that
    came in unless it is detached. The memory itself always reaches to the begin of the text.

    Args:
        pieces: At least one.
        state: Where an earlier call stopped; None begins anew.
        truncate_after: Pieces after which the gradient is cut: it is exactly zero beyond, whatever the loss.

    Returns:
        The sum of the pieces' losses in float64, and the state after the last piece, with its graph.

    Raises:
        ValueError: If there is no piece, or ``truncate_after`` is below 1.
    """
    check_pieces(pieces, truncate_after)
    losses: list[Tensor] = []
    for number, piece in enumerate(pieces):
        if state is not None and is_cut(number, truncate_after):
            state = state.detach()
        loss, state = piece(state, with_loss=True)
        assert loss is not None
        losses.append(loss)
    assert state is not None
    return sum(losses[1:], losses[0]), state
