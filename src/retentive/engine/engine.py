"""Rows that are being continued side by side: they come and go between steps, each with its own sampling and end."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retentive.engine.eager import EagerSteps, evaluating
from retentive.engine.protocol import BesideTokens, EngineStep, RowLimits, RowState, Sampler
from retentive.errors import DivergedError
from retentive.models.protocol import LanguageModel
from retentive.shapes import TokenMask, Tokens
from retentive.state import ModelState, join_rows, map_tensors

PREFILL_TOKENS = 4096
"""Tokens of prompts, over all rows, that one call reads: longer prompts need no more memory."""

_SHORTEST_PIECE = 64


@dataclass(slots=True)
class _Row:
    """A row that has not ended."""

    slot: int
    limits: RowLimits
    taken: int = 0


@dataclass(slots=True)
class _Group:
    """Rows that were added together and share a sampler; they stand side by side in the batch."""

    sampler: Sampler
    rows: list[_Row]


@dataclass(slots=True)
class _Arrivals:
    """Rows whose prompts have been read, and that join the batch at the next step."""

    group: _Group
    logits: Float[Tensor, "rows vocab"]
    state: ModelState

    def without(self, slot: int) -> None:
        """Let one row go."""
        left = torch.tensor([row.slot != slot for row in self.group.rows])
        self.group.sampler.keep(left)
        self.group.rows = [row for row in self.group.rows if row.slot != slot]
        self.logits, self.state = self.logits[left], self.state.select(left)


class Engine:
    """Continues rows of one model. Between steps, a row's state has read all its tokens but the newest."""

    def __init__(self, model: LanguageModel, beside: BesideTokens | None = None) -> None:
        """Begin without rows.

        Args:
            model: Of any family that predicts next tokens; in eval mode during each call, and as it was afterwards.
            beside: Finds the family's inputs beside tokens, such as neighbours; None for families without any.
        """
        self._model, self._beside = model, beside
        self._steps = EagerSteps(model)
        self._groups: list[_Group] = []
        self._arrivals: list[_Arrivals] = []
        self._state: ModelState | None = None
        self._unread: Tensor | None = None
        self._ended: dict[int, RowState] = {}
        self._is_owned = False
        self._next_slot = 0

    @property
    def slots(self) -> tuple[int, ...]:
        """Slots of the rows that have not ended, in the order of the batch; new rows come last."""
        groups = (*self._groups, *(arrivals.group for arrivals in self._arrivals))
        return tuple(row.slot for group in groups for row in group.rows)

    def add(
        self,
        tokens: Tokens,
        mask: TokenMask | None,
        state: ModelState | None,
        sampler: Sampler,
        limits: Sequence[RowLimits],
    ) -> tuple[int, ...]:
        """Read the prompts of new rows, which join the others at the next step.

        Args:
            tokens: Token ids of the prompts, each ending in the last column.
            mask: False at padding; None where there is none.
            state: What the rows go on from; None begins new texts.
            sampler: Chooses their tokens.
            limits: When each row ends.

        Returns:
            The slots of the new rows: numbers that no other row of this engine ever has.

        Raises:
            DivergedError: If the model's logits are not finite.
            ValueError: If the prompts cannot be read.
        """
        with torch.inference_mode(), evaluating(self._model):
            logits, after = self._read_prompt(tokens, mask, state)
            sampler.begin(after.position)
        rows = [_Row(self._next_slot + number, limit) for number, limit in enumerate(limits)]
        self._next_slot += len(rows)
        self._arrivals.append(_Arrivals(_Group(sampler, rows), logits, after))
        return tuple(row.slot for row in rows)

    def step(self) -> EngineStep:
        """Choose the next token of each row. Rows that end take no more steps; `state` still has their states.

        Raises:
            ValueError: If there is no row.
        """
        if not self._groups and not self._arrivals:
            raise ValueError("there must be a row to step, but all have ended; call add first.")
        # Where calls are small, inference mode takes an eighth less time than no_grad; `state` gives normal tensors.
        with torch.inference_mode(), evaluating(self._model):
            self._unread = tokens = self._choose(self._next_logits())
            slots = self.slots
            ended, stopped = self._find_ended(tokens)
            if ended:
                self._retire(set(ended))
        return EngineStep(slots, tokens, ended, stopped)

    def state(self, slot: int) -> RowState:
        """Return the state of a row, ended or not: going on from it gives what the row would have given next.

        Raises:
            KeyError: If no row has this slot, or it was removed.
            ValueError: If the row has no token yet.
        """
        if slot in self._ended:
            return self._ended[slot]
        return self._current(torch.tensor([self._place(slot)]))

    def states(self) -> RowState:
        """Return the states of all rows that have not ended, in the order of `slots`."""
        return self._current(None)

    def remove(self, slot: int) -> None:
        """Let a row go, ended or not.

        Raises:
            KeyError: If no row has this slot.
        """
        if self._ended.pop(slot, None) is not None:
            return
        arrivals = next((some for some in self._arrivals if slot in {row.slot for row in some.group.rows}), None)
        if arrivals is not None:
            arrivals.without(slot)
            self._arrivals = [some for some in self._arrivals if some.group.rows]
            return
        self._place(slot)
        self._retire({slot})
        del self._ended[slot]

    def _place(self, slot: int) -> int:
        """The number of a row in the batch."""
        slots = self.slots
        if slot not in slots:
            raise KeyError(f"slot {slot} is not of a row of this engine; its rows are {', '.join(map(str, slots))}.")
        place = slots.index(slot)
        if place >= sum(len(group.rows) for group in self._groups):
            raise ValueError(f"the row in slot {slot} has no state before its first token; call step first.")
        return place

    def _read_prompt(
        self, tokens: Tokens, mask: TokenMask | None, state: ModelState | None
    ) -> tuple[Float[Tensor, "rows vocab"], ModelState]:
        if self._beside is not None:
            state = self._beside.begin(tokens, mask, state)
        width = max(_SHORTEST_PIECE, PREFILL_TOKENS // tokens.shape[0])
        pieces = range(0, tokens.shape[1], width)
        logits = None
        for begin in pieces:
            columns, real = tokens[:, begin : begin + width], None if mask is None else mask[:, begin : begin + width]
            beside = {} if self._beside is None else self._beside.arguments(columns, real, state)
            keep = 1 if begin == pieces[-1] else 0
            if tokens.shape[1] == 1 and mask is None and state is not None:
                # A text that goes on reads its newest token as any other step would, to the last bit.
                self._steps.begin()
                logits, state = self._steps.step(tokens[:, 0], self._steps.own(state), beside)
            else:
                logits, state = self._steps.read(columns, real, state, beside, keep=keep)
        assert logits is not None
        assert state is not None
        if not bool(logits.isfinite().all()):
            raise DivergedError(
                "the model's logits after the prompt must be finite, but some are NaN or infinite; its weights or the "
                "given state are broken: load an earlier checkpoint."
            )
        return logits, state

    def _next_logits(self) -> Float[Tensor, "rows vocab"]:
        """The logits of the next token of each row, those of rows that have just come included."""
        arrivals, self._arrivals = self._arrivals, []
        logits = [self._read_unread()] if self._groups else []
        if not arrivals:
            return logits[0]
        states = [] if self._state is None or not self._groups else [self._state]
        for some in arrivals:
            logits.append(some.logits)
            states.append(some.state)
            self._groups.append(some.group)
        self._state, self._is_owned = join_rows(states), False
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def _read_unread(self) -> Float[Tensor, "rows vocab"]:
        """Read the newest token of each row."""
        assert self._unread is not None
        assert self._state is not None
        state = self._state
        if not self._is_owned:
            self._steps.begin()
            state, self._is_owned = self._steps.own(state), True
        tokens, beside = self._unread, {}
        if self._beside is not None:
            state = self._beside.before_token(state)
            beside = self._beside.arguments(tokens[:, None], None, state)
        logits, self._state = self._steps.step(tokens, state, beside)
        return logits

    def _choose(self, logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, "rows"]:
        """Let each group's sampler choose."""
        if len(self._groups) == 1:
            return self._groups[0].sampler.choose(logits)
        parts = logits.split([len(group.rows) for group in self._groups])
        return torch.cat([group.sampler.choose(part) for group, part in zip(self._groups, parts, strict=True)])

    def _find_ended(self, tokens: Int[Tensor, "rows"]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Slots of the rows that end with these tokens, and those of them that a stop token ends."""
        rows = [row for group in self._groups for row in group.rows]
        full: list[int] = []
        for row in rows:
            row.taken += 1
            if row.taken >= row.limits.max_new_tokens:
                full.append(row.slot)
        if not any(row.limits.stop_tokens for row in rows):
            return tuple(full), ()
        numbers = tokens.tolist()
        stopped = [row.slot for row, token in zip(rows, numbers, strict=True) if token in row.limits.stop_tokens]
        both = {*full, *stopped}
        return tuple(row.slot for row in rows if row.slot in both), tuple(stopped)

    def _retire(self, slots: set[int]) -> None:
        """Take rows out of the batch, and keep their states."""
        ended = [row.slot in slots for group in self._groups for row in group.rows]
        gone = torch.tensor(ended)
        for slot, place in zip(self.slots, range(len(ended)), strict=True):
            if slot in slots:
                self._ended[slot] = self._current(torch.tensor([place]))
        for group in self._groups:
            left = [row.slot not in slots for row in group.rows]
            if not all(left):
                group.sampler.keep(torch.tensor(left))
                group.rows = [row for row in group.rows if row.slot not in slots]
        self._groups = [group for group in self._groups if group.rows]
        if not self._groups:
            self._state = self._unread = None
        elif self._state is not None and self._unread is not None:
            self._state, self._is_owned = self._state.select(~gone), False
            self._unread = self._unread[~gone]

    def _current(self, rows: Int[Tensor, "chosen"] | None) -> RowState:
        """A copy of the rows' states."""
        if self._unread is None or self._state is None:
            raise ValueError("there is no state before the first token; call step first.")
        current = RowState(model=self._state, unread=self._unread)
        return map_tensors(current if rows is None else current.select(rows), as_value)


def as_value(tensor: Tensor) -> Tensor:
    """Return a copy that no step writes over, outside inference mode, so that it can be used with gradients."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor.detach().clone()
