"""One row that goes on several tokens a call, where drafts of them are right."""

from collections import deque
from typing import cast

import torch
from torch import Tensor

from retentive.checkpoints.states import GenerationState
from retentive.engine.choice import make_steps
from retentive.engine.eager import as_value, evaluating
from retentive.engine.prompt_reading import PREFILL_TOKENS
from retentive.generation.beginning import Beginning
from retentive.generation.decoding import DecodingOptions, draw_seed, not_finite
from retentive.generation.drafts.prompt_lookup import Drafter, DraftPauses
from retentive.generation.logprobs import TokenLogprobs, token_logprobs
from retentive.generation.sampling import add_counts, choose
from retentive.generation.stopping import RowText, TextEnd
from retentive.generation.uniforms import uniforms
from retentive.models.protocol import LanguageModel
from retentive.state import ModelState, map_tensors

_LONGEST_UNREAD = 64


class DraftedDecoding:
    """A `Decoding` of one row. Its state moves on by whole calls whose tokens were all right.

    Where some of a call's tokens were wrong, the state before it stays, and the right ones are read once more by the
    next call, beside its drafts: a state is never taken back, and no copy of one is kept.
    """

    def __init__(
        self,
        model: LanguageModel,
        beginning: Beginning,
        options: DecodingOptions,
        drafter: Drafter,
        *,
        pauses: bool = True,
    ) -> None:
        """Prepare; nothing is read before the first step.

        Args:
            model: See `Decoding`, like the next two.
            beginning: See there.
            options: See there; the engine reads tokens for which there is no draft.
            drafter: Guesses tokens; it has seen none.
            pauses: Whether drafting pauses where it is measured to lose time.

        Raises:
            ValueError: If there are several rows.
        """
        prompt, start = beginning.first, beginning.state
        if prompt.tokens.shape[0] != 1:
            raise ValueError(
                f"drafts must be None for several rows, which would go on at different paces, but there are "
                f"{prompt.tokens.shape[0]}; leave them out, or give one row."
            )
        self.num_rows, self.device = 1, prompt.tokens.device
        self.active = [0]
        self._row_text = RowText(options.stopping, options.tokenizer)
        self._limits = self._row_text.limits
        self.ended: list[TextEnd | None] = [None]
        self.texts = [""]
        self.logprobs: list[TokenLogprobs | None] = [None]
        self.calls = 0
        """Calls and steps after the prompt's so far."""
        sampling = options.sampling
        self._model, self._sampling, self._top = model, sampling, options.logprobs
        self._steps = make_steps(model, options.engine)
        self._seed = 0 if sampling.is_greedy else (draw_seed() if sampling.seed is None else sampling.seed)
        self._state, self._read = start, 0 if start is None else int(start.position)
        self._unread: list[int] = prompt.tokens[0].tolist()
        self._ready: deque[tuple[int, TokenLogprobs | None]] = deque()
        self._round: tuple[ModelState | None, list[int]] = (start, self._unread)
        self._said: list[int] = []
        self._drafter, self._pauses = drafter, DraftPauses(pauses=pauses)
        self._drafter.extend(self._unread)
        self._owned, self._counts = False, beginning.counts

    def keep_model(self) -> None:
        """See `RowsDecoding`."""
        self._steps.watches_model = False

    def step(self) -> Tensor:
        """Return the next token."""
        if not self._ready:
            with torch.inference_mode(), evaluating(self._model):
                self._refill()
        token, self.logprobs[0] = self._ready.popleft()
        self._said.append(token)
        if self._counts is not None:
            add_counts(self._counts, torch.tensor([token], device=self.device))
        is_stopped = self._limits.stops(token)
        has_ended = is_stopped or len(self._said) == self._limits.max_new_tokens
        self.texts[0] = self._row_text.take(token, has_ended=has_ended, is_stopped=is_stopped)
        if has_ended:
            self.ended = [self._row_text.ended]
            self.active = []
        return torch.tensor([token], device=self.device)

    def check(self) -> None:
        """Nothing is left to check: each token was, when it was chosen."""

    def state(self) -> GenerationState:
        """The state after all tokens that were returned but the newest.

        Raises:
            ValueError: If no token was drawn yet.
        """
        if not self._said:
            raise ValueError("there is no state before the first token; take one from the stream first.")
        with torch.inference_mode(), evaluating(self._model):
            # A call whose tokens were not all returned yet has not happened to the state that is handed out.
            state, tokens = self._round if self._ready else (self._value(), self._unread)
            behind = tokens[: len(tokens) - len(self._ready) - 1]
            if behind:
                state = self._steps.read(self._tensor(behind), None, state, {}, keep=0)[1]
        unread = torch.tensor([self._said[-1]], device=self.device)
        reached = GenerationState(model=cast("ModelState", state), unread=unread, counts=self._counts)
        return map_tensors(reached, as_value)

    def _refill(self) -> None:
        """Read what is unread and a draft, and keep what is right of it."""
        if self._state is None or len(self._unread) > _LONGEST_UNREAD:
            self._commit()
        most = self._limits.max_new_tokens - len(self._said) - 1
        draft = self._drafter.draft(most) if self._pauses.wants_draft() else []
        before = self._value() if draft else None
        logits, after = self._call(draft)
        if not bool(logits.isfinite().all()):
            raise not_finite()
        self.calls += 1
        tokens = choose(logits, self._sampling, self._uniforms(len(logits)))
        chosen: list[int] = tokens.tolist()
        if -1 in chosen:  # biases and banned tokens have left none
            raise not_finite()
        right = next((n for n, token in enumerate(draft) if token != chosen[n]), len(draft))
        new = chosen[: right + 1]
        self._round = before, [*self._unread, *new]
        if right == len(draft):
            self._state, self._read = after, self._read + len(self._unread) + len(draft)
            self._unread = new[-1:]
        else:
            self._unread = [*self._unread, *new]
        self._drafter.extend(new)
        found = [None] * len(new) if self._top is None else token_logprobs(logits, tokens, self._top)
        self._ready.extend(zip(new, found, strict=False))
        self._pauses.note(len(new), drafted=bool(draft))

    def _call(self, draft: list[int]) -> tuple[Tensor, ModelState]:
        """The logits after the unread tokens and after each of the draft, and the state after them all."""
        tokens, state = [*self._unread, *draft], self._state
        if len(tokens) == 1 and state is not None:
            if not self._owned:
                self._steps.begin()
                state, self._owned = self._steps.own(state), True
            return self._steps.step(torch.tensor(tokens, device=self.device), state, {})
        state, self._owned = self._value(), False
        output = self._model(self._tensor(tokens), state, logits_to_keep=len(draft) + 1)
        assert output.logits is not None
        return output.logits[0], output.state

    def _commit(self) -> None:
        """Read all unread tokens but the newest."""
        state, self._owned = self._value(), False
        while len(self._unread) > 1:
            piece = self._unread[: min(PREFILL_TOKENS, len(self._unread) - 1)]
            state = self._steps.read(self._tensor(piece), None, state, {}, keep=0)[1]
            self._unread, self._read = self._unread[len(piece) :], self._read + len(piece)
        self._state = state

    def _uniforms(self, count: int) -> Tensor | None:
        """The random numbers of the next positions: those that a text without drafts would draw."""
        if self._sampling.is_greedy:
            return None
        position = torch.tensor([self._read + len(self._unread)], device=self.device)
        return uniforms(self._seed, torch.zeros_like(position), position, count)[0]

    def _value(self) -> ModelState | None:
        return None if self._state is None else self._steps.value(self._state)

    def _tensor(self, tokens: list[int]) -> Tensor:
        return torch.tensor([tokens], device=self.device)
