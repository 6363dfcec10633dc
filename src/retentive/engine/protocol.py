"""What the caller of an engine provides: how to choose tokens, when rows end, and inputs beside tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from retentive.config_types import check_count
from retentive.errors import DivergedError
from retentive.shapes import TokenMask, Tokens
from retentive.state import ModelState, RecurrentState


@runtime_checkable
class Sampler(Protocol):
    """Chooses the next tokens of the rows that were added together; it may keep random numbers of its own."""

    @property
    def state(self) -> RecurrentState | None:
        """What its rows need to be gone on with by another sampler, such as which tokens they have; None for nothing.

        An engine copies what it hands out.
        """
        ...

    def begin(self, position: Int[Tensor, "rows"]) -> None:
        """Learn how many tokens each row has read, once, before the first choice."""
        ...

    def choose(self, logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, "rows"]:
        """Return the next token of each row that is left."""
        ...

    def keep(self, rows: Bool[Tensor, "rows"]) -> None:
        """Go on without the rows that are False."""
        ...


@dataclass(frozen=True, slots=True)
class TokensCall:
    """What a call of the model reads.

    Attributes:
        tokens: Token ids.
        mask: False at padding; None where there is none.
        state: What it goes on from.
        slots: The engine's slot of each row; empty where rows have none yet.
    """

    tokens: Tokens
    mask: TokenMask | None
    state: ModelState | None
    slots: tuple[int, ...] = ()


@runtime_checkable
class BesideTokens(Protocol):
    """Finds a family's inputs beside tokens, such as the neighbours of a chunk that ends."""

    def begin(self, tokens: Tokens, mask: TokenMask | None, state: ModelState | None) -> ModelState | None:
        """Return the state that a prompt begins with."""
        ...

    def before_token(self, state: ModelState) -> ModelState:
        """Return the state before one more token is read; the same object where nothing changes."""
        ...

    def arguments(self, calls: Sequence[TokensCall]) -> Sequence[Mapping[str, Any]]:
        """Return the inputs of each of some calls, by the name of the argument.

        The calls of one step are asked about together, so that their chunks are looked up together.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLimits:
    """When a row ends.

    Attributes:
        max_new_tokens: It ends after this many tokens.
        stop_tokens: It ends with the first of these, which is its last token.
        ends: Told each token that is none of these, once and in order; the row ends with the first that it is true of.
    """

    max_new_tokens: int
    stop_tokens: frozenset[int] = frozenset()
    ends: Callable[[int], bool] | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_count("max_new_tokens", self.max_new_tokens)

    def stops(self, token: int) -> bool:
        """Take a row's newest token, and say whether the row ends with it; call it once a token."""
        return token in self.stop_tokens or (self.ends is not None and self.ends(token))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPrompt:
    """The prompt of one row that is read in pieces, between steps of the others.

    Attributes:
        tokens: Token ids; at least one.
        state: What the row goes on from, one row; None begins a new text.
        known: How many tokens at the begin of ``tokens`` the state has read already, fewer than all.
        marks: After how many tokens `on_mark` is called: pieces end there.
        on_mark: Given each of these numbers, and the state after so many tokens.
    """

    tokens: Int[Tensor, "time"]
    state: ModelState | None = None
    known: int = 0
    marks: tuple[int, ...] = ()
    on_mark: Callable[[int, ModelState], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowState(RecurrentState):
    """State of some rows: a value like any other state, which no later step changes.

    Attributes:
        model: The model's state, which has read all tokens but the newest.
        unread: The newest token.
        sampler: `Sampler.state` of the rows.
    """

    model: ModelState
    unread: Int[Tensor, "batch"]
    sampler: RecurrentState | None = None


@dataclass(frozen=True, slots=True)
class EngineStep:
    """The result of one step.

    Attributes:
        slots: The rows that got a token.
        tokens: The token of each of them.
        ended: Slots that end with this token.
        stopped: Those of them that a stop token, or `RowLimits.ends`, ended.
        failed: Admitted rows whose logits were not finite, and the error of each. They are gone.
    """

    slots: tuple[int, ...]
    tokens: Int[Tensor, "rows"]
    ended: tuple[int, ...] = ()
    stopped: tuple[int, ...] = ()
    failed: tuple[tuple[int, DivergedError], ...] = ()
