"""Document starts that stand at padding: the document begins with the next real token, in this call or a later one."""

from collections.abc import Callable
from typing import TypeVar

from jaxtyping import Bool
from torch import Tensor

from retentive.layers.batch_layout import starts_at_tokens
from retentive.shapes import TokenFlags
from retentive.state import ModelState

State = TypeVar("State", bound=ModelState)


def moved_starts(starts: TokenFlags, mask: TokenFlags) -> "tuple[TokenFlags, Bool[Tensor, 'batch'] | None]":
    """Move starts to real tokens; see `starts_at_tokens`. None stands for rows where nothing is given."""
    if starts is None or mask is None:
        return starts, None
    return starts_at_tokens(starts, mask)


def begun_anew(state: State, rows: "Bool[Tensor, 'batch'] | None", initial_state: Callable[[int], State]) -> State:
    """Let rows forget everything, because a document starts after their last real token."""
    if rows is None or not bool(rows.any()):
        return state
    return state.with_rows(rows, initial_state(int(rows.sum())))
