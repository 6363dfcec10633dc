"""How an engine reads prompts: in pieces, with what a family reads beside tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor

from retentive.engine.eager import EagerSteps
from retentive.engine.protocol import BesideTokens, RowPrompt, TokensCall
from retentive.engine.rows import diverged_after_prompt
from retentive.engine.waiting_prompts import PromptProgress
from retentive.models.protocol import LanguageModel
from retentive.models.state_values import check_state_values
from retentive.shapes import TokenMask, Tokens
from retentive.state import ModelState

PREFILL_TOKENS = 4096
"""Tokens of prompts, over all rows, that one call reads: longer prompts need no more memory."""

_SHORTEST_PIECE = 64


class PromptReading:
    """Reads prompts of one model; call it in inference mode, with the model in eval mode."""

    def __init__(self, model: LanguageModel, steps: EagerSteps, beside: BesideTokens | None) -> None:
        """Take what reads."""
        self._model, self._steps, self._beside = model, steps, beside

    def begin(self, prompt: RowPrompt) -> PromptProgress:
        """Check a prompt, of which nothing is read yet beyond what its state has read.

        Raises:
            MismatchError: If its state is not one of this model's.
        """
        state = prompt.state
        if state is not None:
            self._model.check_state(state)
        if self._beside is not None and not prompt.known:
            state = self._beside.begin(prompt.tokens[None], None, state)
        return PromptProgress(prompt, state, prompt.known)

    def arguments(self, calls: Sequence[TokensCall]) -> Sequence[Mapping[str, Any]]:
        """The inputs beside tokens of some calls."""
        return [{} for _ in calls] if self._beside is None else self._beside.arguments(calls)

    def read(
        self, call: TokensCall, beside: Mapping[str, Any], *, is_whole: bool, keep: int
    ) -> tuple[Float[Tensor, "rows vocab"] | None, ModelState]:
        """Read a piece of a prompt, or all of it; the logits of its last token if ``keep`` is 1."""
        if is_whole and call.tokens.shape[1] == 1 and call.mask is None and call.state is not None:
            # A text that goes on reads its newest token as any other step would, to the last bit.
            check_state_values(call.state)  # as a call does
            steps = self._steps
            steps.begin()
            logits, state = steps.step(call.tokens[:, 0], steps.own(call.state), beside)
            return logits, steps.value(state)
        return self._steps.read(call.tokens, call.mask, call.state, beside, keep=keep)

    def read_whole(
        self, tokens: Tokens, mask: TokenMask | None, state: ModelState | None, *, has_begun: bool
    ) -> tuple[Float[Tensor, "rows vocab"], ModelState]:
        """Read the prompts of some rows to their ends; see `Engine.add`.

        Raises:
            DivergedError: If the logits of the last tokens are not finite.
        """
        if self._beside is not None and not has_begun:
            state = self._beside.begin(tokens, mask, state)
        width = max(_SHORTEST_PIECE, PREFILL_TOKENS // tokens.shape[0])
        pieces = range(0, tokens.shape[1], width)
        logits = None
        for begin in pieces:
            columns, real = tokens[:, begin : begin + width], None if mask is None else mask[:, begin : begin + width]
            call = TokensCall(columns, real, state)
            (beside,) = self.arguments([call])
            logits, state = self.read(call, beside, is_whole=len(pieces) == 1, keep=1 if begin == pieces[-1] else 0)
        assert logits is not None
        if not bool(logits.isfinite().all()):
            raise diverged_after_prompt()
        return logits, cast("ModelState", state)

    def state_after(self, prompt: RowPrompt) -> ModelState:
        """Read the prompt of one row for its state alone."""
        progress = self.begin(prompt)
        while progress.left:
            piece = progress.piece(PREFILL_TOKENS)
            call = TokensCall(piece, None, progress.state)
            (beside,) = self.arguments([call])
            _, state = self.read(call, beside, is_whole=False, keep=0)
            progress.advance(piece.shape[1], state)
        return cast("ModelState", progress.state)
