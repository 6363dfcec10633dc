"""Rows of one call of `generate` or `stream`, continued by an engine until all have ended."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retentive.checkpoints.states import GenerationState, TokenCounts
from retentive.engine import Engine, EngineStep, RowState
from retentive.errors import DivergedError
from retentive.generation.beginning import Beginning
from retentive.generation.logprobs import TokenLogprobs, token_logprobs
from retentive.generation.neighbours.retrieval import Lookup
from retentive.generation.sampling import Sampling, add_counts, choose
from retentive.generation.stopping import RowText, Stopping, TextEnd
from retentive.generation.uniforms import uniforms
from retentive.models.protocol import LanguageModel
from retentive.state import join_rows
from retentive.text.tokenizer import Tokenizer

_DRAWN_AHEAD = 64

NewTokens = Int[Tensor, "rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingOptions:
    """How rows are continued.

    Attributes:
        sampling: How the next token is chosen.
        stopping: When a row ends.
        engine: How tokens are read one by one; see `generate`.
        tokenizer: Turns new tokens into text; None gives none.
        logprobs: Tell the log-probability of each token, and those of so many of the likeliest; None tells none.
    """

    sampling: Sampling
    stopping: Stopping
    engine: str | Path = "eager"
    tokenizer: Tokenizer | None = None
    logprobs: int | None = None


@runtime_checkable
class RowsDecoding(Protocol):
    """Rows that are being continued, whatever reads them; see `Decoding` for the attributes."""

    num_rows: int
    device: torch.device
    active: list[int]
    ended: list[TextEnd | None]
    texts: list[str]
    logprobs: list[TokenLogprobs | None]

    def keep_model(self) -> None:
        """From now on take the model as it is: nobody else acts between two steps, which need not look at it."""
        ...

    def step(self) -> NewTokens:
        """Choose the next token of each row that was active before the call."""
        ...

    def check(self) -> None:
        """Validate that all tokens were chosen from numbers."""
        ...

    def state(self) -> GenerationState:
        """Return the states of all rows, those that have ended included."""
        ...


class Decoding:
    """Rows that are being continued. Between steps, `state` has read all tokens but the newest of each row."""

    def __init__(
        self, model: LanguageModel, beginning: Beginning, options: DecodingOptions, lookup: Lookup | None = None
    ) -> None:
        """Prepare; nothing is read before the first step."""
        self._engine = Engine(model, lookup, engine=options.engine)
        self._beginning: Beginning | None = beginning
        self._sampler = RowSampler(options.sampling, counts=beginning.counts, logprobs=options.logprobs)
        self._tells_each_step = options.tokenizer is not None or options.logprobs is not None
        self.num_rows, self.device = len(beginning.first.tokens), beginning.first.tokens.device
        self.active = list(range(self.num_rows))
        """Numbers of the rows that have not ended; a row's number is its slot in the engine."""
        self._row_texts = [RowText(options.stopping, options.tokenizer) for _ in self.active]
        self.ended: list[TextEnd | None] = [None] * self.num_rows
        """What has ended each row; None while it goes on."""
        self.texts = [""] * self.num_rows
        """The characters of each row that are certain since the last step; empty without a tokenizer."""
        self.logprobs: list[TokenLogprobs | None] = [None] * self.num_rows
        """Of the token that each row got in the last step, where they are wanted; None of a row that got none."""

    def keep_model(self) -> None:
        """See `RowsDecoding`."""
        self._engine.keep_model()

    def step(self) -> NewTokens:
        """Choose the next token of each row that was active before the call."""
        if self._beginning is not None:
            rows = [text.limits for text in self._row_texts]
            first = self._beginning.first
            start, has_begun = self._beginning.state, self._beginning.has_begun
            self._engine.add(first.tokens, first.mask, start, self._sampler, rows, has_begun=has_begun)
            self._beginning = None
        step = self._engine.step()
        if step.ended or self._tells_each_step:
            self._tell(step)
        return step.tokens

    def _tell(self, step: EngineStep) -> None:
        """Note what the rows have got with their tokens, and which have ended."""
        ended, stopped = set(step.ended), set(step.stopped)
        self.texts = [""] * self.num_rows
        self.logprobs = [None] * self.num_rows
        for row, token in zip(step.slots, step.tokens.tolist(), strict=True):
            text = self._row_texts[row]
            self.texts[row] = text.take(token, has_ended=row in ended, is_stopped=row in stopped)
            self.ended[row] = text.ended
        for row, found in zip(step.slots, self._sampler.logprobs, strict=False):
            self.logprobs[row] = found
        self.active = list(self._engine.slots)

    def check(self) -> None:
        """Validate that all tokens were chosen from numbers.

        Raises:
            DivergedError: If the model gave NaN or infinity for one of them.
        """
        self._sampler.check()

    def state(self) -> GenerationState:
        """The states of all rows, those that have ended included.

        Raises:
            ValueError: If no token was drawn yet.
        """
        if self._beginning is not None:
            raise ValueError("there is no state before the first token; take one from the stream first.")
        if len(self.active) == self.num_rows:
            return generation_state(self._engine.states())
        return generation_state(join_rows([self._engine.state(row) for row in range(self.num_rows)]))


def generation_state(rows: RowState) -> GenerationState:
    """Rows of an engine whose samplers are `RowSampler`s, as what `generate` returns."""
    return GenerationState(model=rows.model, unread=rows.unread, counts=cast("TokenCounts | None", rows.sampler))


class RowSampler:
    """Chooses tokens by a `Sampling`; a row's random numbers depend on the seed, its number and its position alone."""

    def __init__(
        self,
        sampling: Sampling,
        *,
        first_row: int = 0,
        logprobs: int | None = None,
        counts: TokenCounts | None = None,
    ) -> None:
        """Take how to choose.

        Args:
            sampling: For all rows.
            first_row: Number of the first row, by which its random numbers are told from those of others.
            logprobs: Keep the log-probability of each token that is chosen, and those of so many of the likeliest.
            counts: Which tokens the rows have before the first choice, see `begin`; kept up with what is chosen.
        """
        self._counts = counts
        self._sampling, self._first_row, self._logprobs = sampling, first_row, logprobs
        self.logprobs: list[TokenLogprobs] = []
        """Of the tokens that were chosen last, one a row; empty where none are wanted."""
        self._draws: _Draws | None = None
        self._unchecked = list[Tensor]()

    @property
    def state(self) -> TokenCounts | None:
        """Which tokens the rows have; None where nobody asked to count them."""
        return self._counts

    def begin(self, position: Int[Tensor, "rows"]) -> None:
        """Draw from the rows' positions on."""
        if not self._sampling.is_greedy:
            seed = self._sampling.seed
            self._draws = _Draws(draw_seed() if seed is None else seed, position, self._first_row)

    def choose(self, logits: Float[Tensor, "rows vocab"]) -> Int[Tensor, "rows"]:
        """Return the next token of each row."""
        uniform = None if self._draws is None else self._draws.take()
        tokens = choose(logits, self._sampling, uniform, self._counts)
        if self._logprobs is not None:
            self.logprobs = token_logprobs(logits, tokens.clamp_min(0), self._logprobs)
        if self._counts is not None:
            add_counts(self._counts, tokens.clamp_min(0))
        if logits.device.type == "cpu":
            if -1 in tokens.tolist():
                raise not_finite()
            return tokens
        self._unchecked.append(tokens)
        if len(self._unchecked) == _DRAWN_AHEAD:  # not after each token, for reading the answer waits for the device
            self.check()
        return tokens.clamp_min(0)

    def check(self) -> None:
        """Validate that all tokens were chosen from numbers.

        Raises:
            DivergedError: If the model gave NaN or infinity for one of them.
        """
        unchecked, self._unchecked = self._unchecked, []
        if any(int(tokens.min()) < 0 for tokens in unchecked):
            raise not_finite()

    def keep(self, rows: Bool[Tensor, "rows"]) -> None:
        """Go on with some rows."""
        self.check()
        if self._draws is not None:
            self._draws.keep(rows)
        if self._counts is not None:
            self._counts = self._counts.select(rows)


def not_finite() -> DivergedError:
    """The error to raise where no token can be chosen."""
    return DivergedError(
        "the model's logits must be finite, but some are NaN or infinite; its weights or the given state are broken: "
        "load an earlier checkpoint."
    )


class _Draws:
    """Random numbers for the next positions of every row, made many at a time."""

    def __init__(self, seed: int, position: Int[Tensor, "rows"], first_row: int) -> None:
        self._seed = seed
        self._position = position
        self._row = torch.arange(first_row, first_row + len(position), device=position.device)
        self._ahead: Float[Tensor, "rows count"] | None = None
        self._used = 0

    def take(self) -> Float[Tensor, "rows"]:
        """The numbers of the present position of each row."""
        if self._ahead is None or self._used == _DRAWN_AHEAD:
            self._position = self._position + self._used
            self._ahead = uniforms(self._seed, self._row, self._position, _DRAWN_AHEAD)
            self._used = 0
        self._used += 1
        return self._ahead[:, self._used - 1]

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows; each keeps its number, and so its sequence."""
        rows = rows.to(self._row.device)
        self._row, self._position = self._row[rows], self._position[rows]
        if self._ahead is not None:
            self._ahead = self._ahead[rows]


def draw_seed() -> int:
    """A seed from torch's global generator, which ``torch.manual_seed`` sets."""
    return int(torch.randint(2**63 - 1, ()))
