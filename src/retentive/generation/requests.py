"""Requests that come and go: each is continued beside the others, and gets what `generate` gives it alone."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from retentive.checkpoints.states import GenerationState
from retentive.config_types import check_count, check_kind
from retentive.engine import Engine, RowPrompt
from retentive.engine.engine import TOKENS_PER_STEP
from retentive.errors import DivergedError
from retentive.generation.beginning import Beginning, begin
from retentive.generation.decoding import RowSampler, generation_state
from retentive.generation.logprobs import TokenLogprobs, check_logprobs
from retentive.generation.neighbours.retrieval import ReadNeighbours, Retrieval, Retriever, make_lookup
from retentive.generation.prefixes import PrefixCache
from retentive.generation.prefixes.reader import retrieval_key
from retentive.generation.sampling import Sampling
from retentive.generation.stop_strings import checked_stop_strings
from retentive.generation.stopping import RowText, Stopping, TextEnd
from retentive.models.calls import check_predicts_next
from retentive.models.protocol import LanguageModel
from retentive.state import ModelState
from retentive.text.tokenizer import Tokenizer

RequestEnd = TextEnd | Literal["failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One text to go on with.

    Attributes:
        prompt: Token ids; may be empty after a `GenerationState` alone.
        max_new_tokens: It ends after this many.
        sampling: How its tokens are chosen.
        stop_tokens: It ends with the first of these, which is its last token.
        stop_strings: It ends with the first of these in the text of its new tokens; needs a tokenizer.
        logprobs: Tell the log-probability of each token, and those of so many of the likeliest; None tells none.
        row: Which row of a `generate` with many rows it equals: rows of one seed draw different tokens.
        state: What it goes on from, of one row; None begins a new text.
        use_prefixes: Look the prompt of a new text up in the batch's prefix cache, and keep states of it there.
        scope: Whose it is: prefixes of one scope are found for the same scope alone.
    """

    prompt: Sequence[int] = ()
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_tokens: Collection[int] = ()
    stop_strings: Sequence[str] = ()
    logprobs: int | None = None
    row: int = 0
    state: ModelState | GenerationState | None = None
    use_prefixes: bool = True
    scope: str = ""

    def __post_init__(self) -> None:
        """Validate the fields that need no model."""
        check_kind("sampling", self.sampling, Sampling, cure="Sampling(temperature=0.8) draws")
        check_kind("stop_tokens", self.stop_tokens, Collection, cure="give a list of token ids")
        assert self.stopping is not None  # what cannot be is refused
        check_count("row", self.row, least=0)
        check_logprobs(self.logprobs)

    @property
    def stopping(self) -> Stopping:
        """When it ends."""
        return Stopping(
            max_new_tokens=self.max_new_tokens,
            stop_tokens=frozenset(self.stop_tokens),
            stop_strings=checked_stop_strings(self.stop_strings),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStep:
    """What one request got in one step.

    Attributes:
        number: Of the request.
        token: Its new token; None if it failed.
        text: Characters that are certain now, so that no stop string begins in them; empty without a tokenizer. With
            the last token comes the rest, without the stop string.
        logprobs: Of the token, where they were asked for.
        neighbours: What it read beside its tokens since the last step, those of its prompt with the first token.
        ended: What ended it with this token; None while it goes on.
        error: Why it failed.
    """

    number: int
    token: int | None
    text: str = ""
    logprobs: TokenLogprobs | None = None
    neighbours: tuple[ReadNeighbours, ...] = ()
    ended: RequestEnd | None = None
    error: DivergedError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestProgress:
    """How far a request is.

    Attributes:
        prompt_tokens: Of its prompt.
        cached_tokens: Those of them that a prefix cache had read already.
        new_tokens: Tokens that it got.
    """

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int


@dataclass(slots=True)
class _Entry:
    """A request that was admitted and not removed."""

    request: Request
    sampler: RowSampler
    text: RowText
    cached_tokens: int = 0
    tokens: list[int] = field(default_factory=list[int])
    neighbours: list[ReadNeighbours] = field(default_factory=list[ReadNeighbours])
    has_failed: bool = False

    def result(self, number: int, token: int, has_ended: bool, is_stopped: bool) -> RequestStep:
        """What the request got with a token."""
        text = self.text.take(token, has_ended=has_ended, is_stopped=is_stopped)
        logprobs = self.sampler.logprobs[0] if self.sampler.logprobs else None
        neighbours, self.neighbours = tuple(self.neighbours), []
        ended = self.text.ended
        return RequestStep(number=number, token=token, text=text, logprobs=logprobs, neighbours=neighbours, ended=ended)


class RequestBatch:
    """Continues requests of one model side by side; call it from one thread.

    A request is admitted at any time. `step` reads a piece of the prompts that wait, then chooses one token for each
    request whose prompt is read, so that nobody waits longer than one piece. Requests that end leave the batch at once;
    their states are kept until `remove`.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        tokenizer: Tokenizer | None = None,
        retriever: Retriever | Retrieval | None = None,
        prefix_cache: PrefixCache | None = None,
        tokens_per_step: int = TOKENS_PER_STEP,
        engine: str | Path = "eager",
    ) -> None:
        """Begin without requests.

        Args:
            model: Of any family that predicts next tokens.
            tokenizer: Turns new tokens into text; None gives none.
            retriever: As in `generate`, for all requests. The chunks that end in one step are looked up together.
            prefix_cache: As in `generate`, for requests that go on from no state. The states of answers are kept too,
                for conversations that are sent whole each turn.
            tokens_per_step: Tokens of prompts that one step reads, at most.
            engine: As in `generate`.

        Raises:
            ValueError: If the model is an encoder, reads no neighbours while a retriever is given, or is none for the
                engine.
        """
        check_predicts_next(model)
        check_kind("prefix_cache", prefix_cache, PrefixCache, type(None))
        self._model, self._tokenizer, self._cache = model, tokenizer, prefix_cache
        lookup = make_lookup(model, retriever)
        self._retrieval = "" if prefix_cache is None else retrieval_key(lookup)
        self._keeps_answers = lookup is None or not lookup.reads_between_chunks
        self._lookup = lookup
        self._engine = Engine(model, lookup, tokens_per_step=tokens_per_step, engine=engine)
        self._entries: dict[int, _Entry] = {}

    def admit(self, request: Request) -> int:
        """Take a request; the next steps read its prompt.

        Returns:
            Its number, which no other request of this batch ever has.

        Raises:
            TypeError: If the prompt is not token ids.
            ValueError: As `generate` does.
            MismatchError: If the state is of another model.
            DivergedError: If the state has NaN.
        """
        check_kind("request", request, Request)
        stopping = request.stopping
        stopping.check_vocab(self._model.vocab_size)
        text = RowText(stopping, self._tokenizer)
        beginning = begin(self._model, request.prompt or None, request.state, request.max_new_tokens, request.sampling)
        tokens = beginning.first.tokens
        if len(tokens) != 1:
            raise ValueError(f"request must have one row, but has {len(tokens)}; admit each by itself.")
        sampler = RowSampler(
            request.sampling, first_row=request.row, logprobs=request.logprobs, counts=beginning.counts
        )
        entry = _Entry(request, sampler, text)
        number = self._engine.admit(self._row_prompt(beginning, entry), sampler, text.limits)
        self._entries[number] = entry
        return number

    def _row_prompt(self, beginning: Beginning, entry: _Entry) -> RowPrompt:
        """The tokens of a request, after what the prefix cache knows of them."""
        tokens, request = beginning.first.tokens[0], entry.request
        if self._cache is None or beginning.state is not None or not request.use_prefixes or len(tokens) == 1:
            return RowPrompt(tokens=tokens, state=beginning.state)
        text = tokens[:-1].tolist()
        prefix = self._cache.find(self._model, text, scope=request.scope, retrieval=self._retrieval)
        entry.cached_tokens = prefix.length
        return RowPrompt(
            tokens=tokens, state=prefix.state, known=prefix.length, marks=prefix.marks, on_mark=prefix.keep
        )

    @property
    def is_busy(self) -> bool:
        """Whether some request has not ended."""
        return bool(self._engine.slots or self._engine.waiting)

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers of the requests that are being continued."""
        return self._engine.slots

    @property
    def waiting(self) -> tuple[int, ...]:
        """Numbers of the requests whose prompts are being read, the one that is read next first."""
        return self._engine.waiting

    def step(self) -> tuple[RequestStep, ...]:
        """Read a piece of the prompts that wait, then choose a token for each request whose prompt is read.

        Returns:
            What each of these got, and which requests failed; empty while there are only prompts to read.

        Raises:
            ValueError: If all requests have ended.
        """
        if not self.is_busy:
            raise ValueError("there must be a request to step, but all have ended; call admit first.")
        step = self._engine.step()
        for number, found in ({} if self._lookup is None else self._lookup.read).items():
            self._entries[number].neighbours += found
        ended, stopped = set(step.ended), set(step.stopped)
        results: list[RequestStep] = []
        for number, error in step.failed:
            self._entries[number].has_failed = True
            results.append(RequestStep(number=number, token=None, ended="failed", error=error))
        for number, token in zip(step.slots, step.tokens.tolist(), strict=True):
            self._entries[number].tokens.append(token)
            if number in ended:
                self._keep_answer(number)
            results.append(self._entries[number].result(number, token, number in ended, number in stopped))
        return tuple(results)

    def _keep_answer(self, number: int) -> None:
        """Keep the state after a whole answer: the next turn of the conversation begins with it."""
        entry = self._entries[number]
        request, cache = entry.request, self._cache
        if cache is None or request.state is not None or not request.use_prefixes or not self._keeps_answers:
            return
        text = [*request.prompt, *entry.tokens[:-1]]
        prefix = cache.find(self._model, text, scope=request.scope, retrieval=self._retrieval, is_counted=False)
        if len(text) in prefix.marks:
            prefix.keep(len(text), self._engine.state(number).model)

    def progress(self, number: int) -> RequestProgress:
        """How far a request is.

        Raises:
            KeyError: If there is no such request, or it was removed.
        """
        entry = self._entry(number)
        return RequestProgress(
            prompt_tokens=len(entry.request.prompt), cached_tokens=entry.cached_tokens, new_tokens=len(entry.tokens)
        )

    def state(self, number: int) -> GenerationState:
        """The state of a request, ended or not: going on from it gives what the request would have got next.

        Raises:
            KeyError: If there is no such request, or it was removed.
            ValueError: If it has no token yet, or failed.
        """
        if self._entry(number).has_failed:
            raise ValueError(f"request {number} has no state, for it has failed; admit it again from an earlier state.")
        return generation_state(self._engine.state(number))

    def remove(self, number: int) -> None:
        """Let a request go at any time between steps, ended or not, and forget its state.

        Raises:
            KeyError: If there is no such request, or it was removed.
        """
        entry = self._entry(number)
        del self._entries[number]
        if not entry.has_failed:
            self._engine.remove(number)

    def _entry(self, number: int) -> _Entry:
        if number not in self._entries:
            raise KeyError(f"request {number} is not of this batch, or was removed.")
        return self._entries[number]
