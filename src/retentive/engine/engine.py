"""Rows that are being continued side by side: they come and go between steps, each with its own sampling and end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retentive.config_types import check_count
from retentive.engine.choice import make_steps
from retentive.engine.eager import as_value, evaluating
from retentive.engine.prompt_reading import PromptReading
from retentive.engine.protocol import (
    BesideTokens,
    EngineStep,
    RowLimits,
    RowPrompt,
    RowState,
    Sampler,
    TokensCall,
)
from retentive.engine.rows import Arrivals, Failed, Group, Row, diverged_after_prompt
from retentive.engine.waiting_prompts import WaitingPrompt, WaitingPrompts
from retentive.errors import DivergedError
from retentive.models.protocol import LanguageModel
from retentive.shapes import TokenMask, Tokens
from retentive.state import ModelState, RecurrentState, join_rows, map_tensors

TOKENS_PER_STEP = 512
"""Tokens of admitted prompts that one step reads, at most: so long do rows that are being continued wait for them."""


class Engine:
    """Continues rows of one model. Between steps, a row's state has read all its tokens but the newest."""

    def __init__(
        self,
        model: LanguageModel,
        beside: BesideTokens | None = None,
        *,
        tokens_per_step: int = TOKENS_PER_STEP,
        engine: str | Path = "eager",
    ) -> None:
        """Begin without rows.

        Args:
            model: Of any family that predicts next tokens; in eval mode during each call, and as it was afterwards.
            beside: Finds the family's inputs beside tokens, such as neighbours; None for families without any.
            tokens_per_step: Tokens of admitted prompts that one step reads, at most.
            engine: How steps are run: a name of `retentive.engine.choice.ENGINES`, or a folder of ``retentive export``.

        Raises:
            ValueError: If there is no engine of this name, or it cannot run the model.
        """
        check_count("tokens_per_step", tokens_per_step, unit="token")
        self._model, self._beside = model, beside
        self._steps = make_steps(model, engine)
        # Apart, for steps go on from their own last state: reading a prompt of one token must not end a run of others.
        self._prompts = PromptReading(model, self._steps.apart(), beside)
        self._waiting = WaitingPrompts(tokens_per_step)
        self._groups: list[Group] = []
        self._arrivals: list[Arrivals] = []
        self._state: ModelState | None = None
        self._unread: Tensor | None = None
        self._ended: dict[int, RowState] = {}
        self._is_owned = False
        self._next_slot = 0

    @property
    def slots(self) -> tuple[int, ...]:
        """Slots of the rows that have not ended, in the order of the batch; new rows come last."""
        groups = [*self._groups, *(arrivals.group for arrivals in self._arrivals)] if self._arrivals else self._groups
        return tuple([row.slot for group in groups for row in group.rows])

    def add(
        self,
        tokens: Tokens,
        mask: TokenMask | None,
        state: ModelState | None,
        sampler: Sampler,
        limits: Sequence[RowLimits],
        *,
        has_begun: bool = False,
    ) -> tuple[int, ...]:
        """Read the prompts of new rows, which join the others at the next step.

        Args:
            tokens: Token ids of the prompts, each ending in the last column.
            mask: False at padding; None where there is none.
            state: What the rows go on from; None begins new texts.
            sampler: Chooses their tokens.
            limits: When each row ends.
            has_begun: Whether the state has read the begin of these prompts, so that they do not go on from another
                text.

        Returns:
            The slots of the new rows: numbers that no other row of this engine ever has.

        Raises:
            DivergedError: If the model's logits are not finite.
            ValueError: If the prompts cannot be read.
        """
        with torch.inference_mode(), evaluating(self._model):
            logits, after = self._prompts.read_whole(tokens, mask, state, has_begun=has_begun)
            sampler.begin(after.position)
        rows = [Row(self._next_slot + number, limit) for number, limit in enumerate(limits)]
        self._next_slot += len(rows)
        self._arrivals.append(Arrivals(Group(sampler, rows), logits, after))
        return tuple(row.slot for row in rows)

    def admit(self, prompt: RowPrompt, sampler: Sampler, limits: RowLimits) -> int:
        """Take a row whose prompt the next steps read, piece by piece; it joins the others as soon as it is read.

        Rows of one engine that are admitted so fail alone: logits that are not finite end a row, see
        `EngineStep.failed`, and never the others.

        Args:
            prompt: Its prompt.
            sampler: Chooses its tokens; asked for this row alone.
            limits: When it ends.

        Returns:
            Its slot: a number that no other row of this engine ever has.

        Raises:
            MismatchError: If the prompt's state is not one of this model's.
        """
        self._waiting.add(WaitingPrompt(self._next_slot, self._prompts.begin(prompt), sampler, limits))
        self._next_slot += 1
        return self._next_slot - 1

    def read(self, prompt: RowPrompt) -> ModelState:
        """Read a prompt at once, for its state alone.

        Returns:
            The state after all of its tokens.
        """
        with torch.inference_mode(), evaluating(self._model):
            return self._prompts.state_after(prompt)

    def keep_model(self) -> None:
        """From now on take the model as it is: nobody else acts between two steps, which need not look at it."""
        self._steps.watches_model = False

    @property
    def waiting(self) -> tuple[int, ...]:
        """Slots of the admitted rows whose prompts are being read, the one that is read next first."""
        return self._waiting.slots

    def step(self) -> EngineStep:
        """Read a piece of the admitted prompts, then choose the next token of each row.

        Rows that end take no more steps; `state` still has their states. While there are only prompts to read, no row
        gets a token.

        Raises:
            ValueError: If there is no row.
        """
        if not self._groups and not self._arrivals and not self._waiting:
            raise ValueError("there must be a row to step, but all have ended; call add first.")
        # Where calls are small, inference mode takes an eighth less time than no_grad; `state` gives normal tensors.
        with torch.inference_mode(), evaluating(self._model):
            logits, failed = self._next_logits()
            if logits is None:
                return EngineStep((), torch.zeros(0, dtype=torch.long), failed=failed)
            tokens, failed_now = self._choose(logits)
            self._unread = tokens
            if failed_now:
                gone = {slot for slot, _ in failed_now}
                tokens = tokens[torch.tensor([slot not in gone for slot in self.slots])]
                self._retire(gone, is_kept=False)
            slots = self.slots
            ended, stopped = self._find_ended(tokens)
            if ended:
                self._retire(set(ended))
        return EngineStep(slots, tokens, ended, stopped, failed + failed_now)

    def state(self, slot: int) -> RowState:
        """Return the state of a row, ended or not: going on from it gives what the row would have given next.

        Raises:
            KeyError: If no row has this slot, or it was removed.
            ValueError: If the row has no token yet.
        """
        if slot in self._ended:
            return self._ended[slot]
        place = self._place(slot)
        return self._row(self._value(), place)

    def states(self) -> RowState:
        """Return the states of all rows that have not ended, in the order of `slots`."""
        value, unread = self._value(), cast("Tensor", self._unread)
        return map_tensors(RowState(model=value, unread=unread, sampler=self._sampler_states()), as_value)

    def remove(self, slot: int) -> None:
        """Let a row go, ended or not.

        Raises:
            KeyError: If no row has this slot.
        """
        if self._ended.pop(slot, None) is not None:
            return
        if slot in self.waiting:
            self._waiting.remove(slot)
            return
        arrivals = next((some for some in self._arrivals if slot in {row.slot for row in some.group.rows}), None)
        if arrivals is not None:
            arrivals.without(slot)
            self._arrivals = [some for some in self._arrivals if some.group.rows]
            return
        self._place(slot)
        self._retire({slot}, is_kept=False)

    def _place(self, slot: int) -> int:
        """The number of a row in the batch."""
        slots = (*self.slots, *self.waiting)
        if slot not in slots:
            raise KeyError(f"slot {slot} is not of a row of this engine; its rows are {', '.join(map(str, slots))}.")
        place = slots.index(slot)
        if place >= sum(len(group.rows) for group in self._groups):
            raise ValueError(f"the row in slot {slot} has no state before its first token; call step first.")
        return place

    def _next_logits(self) -> tuple[Float[Tensor, "rows vocab"] | None, Failed]:
        """Read a piece of the waiting prompts and the newest token of each row.

        Returns:
            The logits of the next token of each row, those of rows that have just come included; None without rows.
            The rows that have failed.
        """
        if not self._waiting and not self._arrivals and self._beside is None:  # most steps: rows that nobody joins
            return self._read_unread(self._owned_state(), {}), ()
        pieces = self._waiting.next_pieces()
        calls = [TokensCall(piece, None, waiting.progress.state, (waiting.slot,)) for waiting, piece in pieces]
        if self._groups:
            calls.append(self._next_call())
        beside = self._prompts.arguments(calls)
        logits = [self._read_unread(calls[-1].state, beside[-1])] if self._groups else []
        failed: Failed = ()
        if pieces:
            failed = self._read_pieces(pieces, calls, beside)
        arrivals, self._arrivals = self._arrivals, []
        if not arrivals:
            return (logits[0] if logits else None), failed
        states = [] if self._state is None or not self._groups else [self._steps.value(self._state)]
        for some in arrivals:
            logits.append(some.logits)
            states.append(some.state)
            self._groups.append(some.group)
        self._state, self._is_owned = join_rows(states), False
        return torch.cat(logits) if len(logits) > 1 else logits[0], failed

    def _read_pieces(
        self,
        pieces: Sequence[tuple[WaitingPrompt, Tensor]],
        calls: Sequence[TokensCall],
        beside: Sequence[Mapping[str, Any]],
    ) -> Failed:
        """Read a piece of each of some prompts; rows whose prompts are read arrive."""
        last: dict[int, Tensor] = {}
        for (waiting, piece), call, more in zip(pieces, calls, beside, strict=False):
            progress = waiting.progress
            is_last = progress.left == piece.shape[1]
            is_whole = progress.left == 1 and progress.read == progress.prompt.known
            logits, state = self._prompts.read(call, more, is_whole=is_whole, keep=1 if is_last else 0)
            progress.advance(piece.shape[1], state)
            if is_last:
                last[waiting.slot] = cast("Tensor", logits)
        failed: Failed = ()
        for waiting in self._waiting.turn(len(pieces)):
            logits, state = last[waiting.slot], cast("ModelState", waiting.progress.state)
            if not bool(logits.isfinite().all()):
                failed += ((waiting.slot, diverged_after_prompt()),)
                continue
            waiting.sampler.begin(state.position)
            group = Group(waiting.sampler, [Row(waiting.slot, waiting.limits)], fails_alone=True)
            self._arrivals.append(Arrivals(group, logits, state))
        return failed

    def _owned_state(self) -> ModelState:
        """The state of all rows, which the next step may write over."""
        assert self._state is not None
        if not self._is_owned:
            self._steps.begin()
            self._state, self._is_owned = self._steps.own(self._state), True
        return self._state

    def _next_call(self) -> TokensCall:
        """What the rows read in this step: the newest token of each."""
        assert self._unread is not None
        state = self._owned_state()
        if self._beside is None:
            return TokensCall(self._unread[:, None], None, state)
        self._state = state = self._steps.at_border(self._beside.before_token(state))
        slots = tuple(row.slot for group in self._groups for row in group.rows)
        return TokensCall(self._unread[:, None], None, state, slots)

    def _read_unread(self, state: ModelState | None, beside: Mapping[str, Any]) -> Float[Tensor, "rows vocab"]:
        """Read the newest token of each row."""
        assert state is not None
        assert self._unread is not None
        logits, self._state = self._steps.step(self._unread, state, beside)
        return logits

    def _choose(self, logits: Float[Tensor, "rows vocab"]) -> tuple[Int[Tensor, "rows"], Failed]:
        """Let each group's sampler choose; the token of a row that has failed is 0."""
        if len(self._groups) == 1 and not self._groups[0].fails_alone:
            return self._groups[0].sampler.choose(logits), ()
        chosen: list[Tensor] = []
        failed: Failed = ()
        for group, part in zip(self._groups, logits.split([len(group.rows) for group in self._groups]), strict=True):
            try:
                chosen.append(group.sampler.choose(part))
            except DivergedError as error:
                if not group.fails_alone:
                    raise
                failed += ((group.rows[0].slot, error),)
                chosen.append(torch.zeros(1, dtype=torch.long, device=part.device))
        return torch.cat(chosen), failed

    def _find_ended(self, tokens: Int[Tensor, "rows"]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Slots of the rows that end with these tokens, and those of them that a stop token ends."""
        rows = [row for group in self._groups for row in group.rows]
        full: list[int] = []
        for row in rows:
            row.taken += 1
            if row.taken >= row.limits.max_new_tokens:
                full.append(row.slot)
        if not any(row.limits.stop_tokens or row.limits.ends for row in rows):
            return tuple(full), ()
        numbers = tokens.tolist()
        stopped = [row.slot for row, token in zip(rows, numbers, strict=True) if row.limits.stops(token)]
        both = {*full, *stopped}
        return tuple(row.slot for row in rows if row.slot in both), tuple(stopped)

    def _retire(self, slots: set[int], *, is_kept: bool = True) -> None:
        """Take rows out of the batch; their states are kept, or not."""
        ended = [row.slot in slots for group in self._groups for row in group.rows]
        gone = torch.tensor(ended)
        # Once for all rows that end: `value` copies every row where steps keep states in memory of their own.
        is_needed = self._state is not None and (is_kept or not all(ended))
        value = self._steps.value(cast("ModelState", self._state)) if is_needed else None
        for slot, place in zip(self.slots, range(len(ended)), strict=True):
            if slot in slots and is_kept and value is not None:
                self._ended[slot] = self._row(value, place)
        for group in self._groups:
            left = [row.slot not in slots for row in group.rows]
            if not all(left):
                group.sampler.keep(torch.tensor(left))
                group.rows = [row for row in group.rows if row.slot not in slots]
        self._groups = [group for group in self._groups if group.rows]
        if not self._groups:
            self._state = self._unread = None
        elif value is not None and self._unread is not None:
            self._state, self._is_owned = value.select(~gone), False
            self._unread = self._unread[~gone]

    def _value(self) -> ModelState:
        """The state of all rows as an ordinary one."""
        if self._unread is None or self._state is None:
            raise ValueError("there is no state before the first token; call step first.")
        return self._steps.value(self._state)

    def _row(self, value: ModelState, place: int) -> RowState:
        """A copy of the state of the row in a place, of `_value`."""
        assert self._unread is not None
        row = torch.tensor([place])
        current = RowState(model=value.select(row), unread=self._unread[row], sampler=self._sampler_of(place))
        return map_tensors(current, as_value)

    def _sampler_of(self, place: int) -> RecurrentState | None:
        """What the sampler of the row in a place keeps of it."""
        for group in self._groups:
            if place < len(group.rows):
                state = group.sampler.state
                return None if state is None else state.select(torch.tensor([place]))
            place -= len(group.rows)
        raise AssertionError("a place of no row")

    def _sampler_states(self) -> RecurrentState | None:
        """What the samplers of all rows keep of them."""
        found = [group.sampler.state for group in self._groups]
        kept = [state for state in found if state is not None]
        if len(kept) not in (0, len(found)):
            raise ValueError("the rows must have samplers with the same kind of state; ask for `state` of each slot.")
        return join_rows(kept) if kept else None
