"""Positions as transformers gives them: those that a state knows by itself, and those that begin a document."""

import torch
from jaxtyping import Int
from torch import Tensor

from retentive.huggingface.cache import StateCache
from retentive.shapes import TokenMask


def document_starts(
    position_ids: Int[Tensor, "rows columns"] | None,
    mask: TokenMask | None,
    cache: StateCache | None,
    batch: int,
    time: int,
) -> TokenMask | None:
    """Return where documents begin: at real columns whose position is 0 again; None where none does.

    A padding-free collator packs documents into a row and says so in this way. Positions that go on are checked, and
    then not needed: every model counts the real columns of a row.

    Args:
        position_ids: Of this call; one row stands for all.
        mask: Which of its columns are real.
        cache: What was read before. Positions may go on from its state or from its first column, as in ``generate``.
        batch: Rows of the call.
        time: Columns of the call.

    Raises:
        ValueError: If the positions do not fit the call, or are others than those of the model.
    """
    if position_ids is None:
        return None
    shape = tuple(position_ids.shape)
    if shape not in ((batch, time), (1, time)):
        raise ValueError(f"position_ids must be (batch, time), ({batch}, {time}), but have shape {shape}.")
    given = position_ids.expand(batch, time)
    real = torch.ones_like(given, dtype=torch.bool) if mask is None else mask.to(given.device)
    if cache is None or cache.state is None:
        before = [torch.zeros_like(given[:, 0])]
    else:
        position = cache.state.position.to(given.device)
        before = [position] if cache.layer.base is None else [position, position - cache.layer.base.to(given.device)]
    if torch.compiler.is_compiling():
        return _starts(given, real, before[-1])[0]
    found = [(starts, bool(fits)) for starts, fits in (_starts(given, real, start) for start in before)]
    if any(fits and not bool(starts.any()) for starts, fits in found):
        return None
    for starts, fits in found:
        if fits and len(before) == 1:
            return starts
        if fits:
            raise ValueError(
                "position_ids must go on from the state of a cache that was made from one, StateCache(state), but a "
                "document begins again at 0; begin it in a call without this cache."
            )
    raise ValueError(
        "position_ids must count the real columns of each row from what was read before, or begin a document at 0, "
        "since a state has read its tokens in order, but they do not; leave them out to go on."
    )


def _starts(given: Tensor, real: Tensor, before: Tensor) -> tuple[TokenMask, Tensor]:
    """Return where documents begin, and whether all other real columns count on."""
    count = real.cumsum(1)
    goes_on = before[:, None] + count - 1
    starts = (given == 0) & real & (goes_on != 0)
    newest = torch.where(starts, count, 0).cummax(1).values
    expected = torch.where(newest > 0, count - newest, goes_on)
    return starts, ((given == expected) | ~real).all()
