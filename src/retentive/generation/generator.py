"""`generate` and `stream`: from a prompt, or from where an earlier call stopped, to new tokens."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor

from retentive.checkpoints.states import GenerationState
from retentive.config_types import check_kind
from retentive.engine.eager import evaluating
from retentive.generation.beginning import begin, read_prefixes
from retentive.generation.decoding import Decoding, DecodingOptions, RowsDecoding
from retentive.generation.drafts.decoding import DraftedDecoding
from retentive.generation.drafts.prompt_lookup import NgramIndex, PromptLookup
from retentive.generation.logprobs import TokenLogprobs, check_logprobs
from retentive.generation.neighbours.retrieval import Retrieval, Retriever, make_lookup
from retentive.generation.prefixes import PrefixCache, PrefixReader
from retentive.generation.prompt import Prompt
from retentive.generation.sampling import Sampling
from retentive.generation.stop_strings import checked_stop_strings
from retentive.generation.stopping import Stopping, TextEnd
from retentive.models.calls import check_predicts_next
from retentive.models.protocol import LanguageModel
from retentive.state import ModelState
from retentive.text.tokenizer import Tokenizer

_KEPT_TOGETHER = 256
_GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What `generate` returns.

    Attributes:
        tokens: The new tokens of each row, a stop token included; one tensor a row, as rows end at different lengths.
            ``torch.nn.utils.rnn.pad_sequence(result.tokens, batch_first=True)`` makes one tensor of them.
        state: Goes into the next call, or into `save_state`.
        ended: What ended each row: ``stop_token``, ``stop_string``, or ``length`` for ``max_new_tokens``.
        text: The text of each row, without the stop string; None without a tokenizer.
        logprobs: Those of each row's tokens; None where they were not asked for.
    """

    tokens: list[Int[Tensor, "_"]]
    state: GenerationState
    ended: tuple[TextEnd, ...]
    text: tuple[str, ...] | None = None
    logprobs: tuple[tuple[TokenLogprobs, ...], ...] | None = None

    @property
    def stopped(self) -> tuple[bool, ...]:
        """Which rows a stop token has ended."""
        return tuple(end == "stop_token" for end in self.ended)


class TokenStream(Iterator[tuple[int | None, ...]]):
    """What `stream` returns: each step gives a token id for every row, None for a row that has ended."""

    def __init__(self, decoding: RowsDecoding) -> None:
        """Iterate over a decoding."""
        self._decoding = decoding

    def __iter__(self) -> "TokenStream":
        """The stream itself."""
        return self

    def __next__(self) -> tuple[int | None, ...]:
        """The next token of every row."""
        decoding = self._decoding
        rows = decoding.active
        if not rows:
            raise StopIteration
        tokens: list[int] = decoding.step().tolist()
        decoding.check()
        if len(rows) == decoding.num_rows:
            return tuple(tokens)
        step: list[int | None] = [None] * decoding.num_rows
        for row, token in zip(rows, tokens, strict=True):
            step[row] = token
        return tuple(step)

    @property
    def state(self) -> GenerationState:
        """The state of the rows: at any point, going on from it gives what the stream would have given next.

        Raises:
            ValueError: If no token was taken yet.
        """
        return self._decoding.state()

    @property
    def stopped(self) -> tuple[bool, ...]:
        """Which rows a stop token has ended."""
        return tuple(end == "stop_token" for end in self._decoding.ended)

    @property
    def ended(self) -> tuple[TextEnd | None, ...]:
        """What has ended each row; None while it goes on."""
        return tuple(self._decoding.ended)

    @property
    def text(self) -> tuple[str, ...]:
        """The characters of each row that are certain with the last step: whole, and no begin of a stop string.

        With a row's last token comes the rest, without the stop string. Empty without a tokenizer.
        """
        return tuple(self._decoding.texts)

    @property
    def logprobs(self) -> tuple[TokenLogprobs | None, ...]:
        """Of the tokens of the last step; None for a row that got none, and where they were not asked for."""
        return tuple(self._decoding.logprobs)


def generate(
    model: LanguageModel,
    prompt: Prompt | None = None,
    *,
    max_new_tokens: int,
    sampling: Sampling = _GREEDY,
    stop_tokens: Collection[int] = (),
    stop_strings: Collection[str] = (),
    tokenizer: Tokenizer | None = None,
    logprobs: int | None = None,
    state: ModelState | GenerationState | None = None,
    retriever: Retriever | Retrieval | None = None,
    engine: str | Path = "eager",
    drafts: PromptLookup | None = None,
    prefix_cache: PrefixCache | None = None,
) -> GenerationResult:
    """Continue a text, or several side by side.

    Each row gets what it would get alone: prompts of different lengths are masked, and rows that end are dropped.
    A row's random numbers depend on the seed, the number of the row and the position in the text, and on nothing else.

    ``result.state`` has read everything but the newest token of each row, which it carries as ``unread``. So
    ``generate(model, state=result.state, ...)`` gives the tokens that a longer first call would have given, sampled
    ones with the same ``seed`` too, and ``generate(model, more, state=result.state, ...)`` reads it, then ``more``.
    A model in training mode is in eval mode during each step, and as it was afterwards.

    Args:
        model: Of any family.
        prompt: Token ids: one row (a sequence of numbers, a 1-D tensor) or several (a 2-D tensor, or sequences of any
            lengths). Left out, the text goes on from ``state``.
        max_new_tokens: Tokens for each row, at most.
        sampling: How to choose; greedy if left out.
        stop_tokens: A row ends with the first of these ids.
        stop_strings: A row ends with the first of these in the text of its new tokens; needs the tokenizer.
        tokenizer: Turns new tokens into text; None gives none.
        logprobs: Tell the log-probability of each token, and those of so many of the likeliest; None tells none.
        state: Of an earlier result, or of the model's output, with as many rows as the prompt.
        retriever: For families that read neighbours: finds those of each chunk, as soon as it has ended and once; a
            `StoreRetriever` over a datastore, any function, or a `Retrieval` with options. None reads none.
        engine: How tokens are read one by one: ``eager``; ``compile`` through ``torch.compile``, ``onnx``,
            ``onnx-int8`` or ``onnx-int4``, made once a model; or a folder of ``retentive export``, made before.
        drafts: Draft tokens from the text's own n-grams and read several in one call, where that gains time; for one
            row, without a retriever. Tokens are the same, sampled ones too; only rounding differs.
        prefix_cache: Has the states of texts that begin like these, which are then not read again, and keeps those of
            these; None reads all. It is for texts from their begin on, and not after a ``state``.

    Raises:
        TypeError: If the prompt is not token ids, or an argument is of another class.
        ValueError: If the model is an encoder, the prompt is empty, an id is out of the vocabulary, a number cannot be,
            rows of ``state`` and ``prompt`` differ, or the text would outgrow the model's ``max_positions``.
        MismatchError: If ``state`` is of another model.
        DivergedError: If it has NaN, or the model's logits are not finite.
    """
    options = _options(max_new_tokens, sampling, stop_tokens, stop_strings, tokenizer, logprobs, engine)
    rows = _begin(model, prompt, options, state, retriever, drafts, prefix_cache)
    log = _RowsLog(rows, has_text=tokenizer is not None, has_logprobs=logprobs is not None)
    with evaluating(model):  # once: asking all modules in each step takes a fifth of the time of a small model
        log.add_all()
    return log.result()


def stream(
    model: LanguageModel,
    prompt: Prompt | None = None,
    *,
    max_new_tokens: int,
    sampling: Sampling = _GREEDY,
    stop_tokens: Collection[int] = (),
    stop_strings: Collection[str] = (),
    tokenizer: Tokenizer | None = None,
    logprobs: int | None = None,
    state: ModelState | GenerationState | None = None,
    retriever: Retriever | Retrieval | None = None,
    engine: str | Path = "eager",
    drafts: PromptLookup | None = None,
    prefix_cache: PrefixCache | None = None,
) -> TokenStream:
    """`generate`, token by token: yields a tuple with the new id of each row, None for rows that have ended.

    The prompt is read when the first token is asked for. The stream can be left at any token; its ``state`` goes on
    from there.

    Args:
        model: As in `generate`, like all that follow.
        prompt: See there.
        max_new_tokens: See there.
        sampling: See there.
        stop_tokens: See there.
        stop_strings: See there.
        tokenizer: See there.
        logprobs: See there.
        state: See there.
        retriever: See there.
        engine: See there.
        drafts: See there.
        prefix_cache: See there.
    """
    options = _options(max_new_tokens, sampling, stop_tokens, stop_strings, tokenizer, logprobs, engine)
    return TokenStream(_begin(model, prompt, options, state, retriever, drafts, prefix_cache))


def _options(
    max_new_tokens: int,
    sampling: Sampling,
    stop_tokens: Collection[int],
    stop_strings: Collection[str],
    tokenizer: Tokenizer | None,
    logprobs: int | None,
    engine: str | Path,
) -> DecodingOptions:
    check_kind("stop_tokens", stop_tokens, Collection, cure="give a list of token ids")
    stopping = Stopping(
        max_new_tokens=max_new_tokens,
        stop_tokens=frozenset(stop_tokens),
        stop_strings=checked_stop_strings(stop_strings),
    )
    return DecodingOptions(sampling=sampling, stopping=stopping, engine=engine, tokenizer=tokenizer, logprobs=logprobs)


def _begin(
    model: LanguageModel,
    prompt: Prompt | None,
    options: DecodingOptions,
    state: ModelState | GenerationState | None,
    retriever: Retriever | Retrieval | None,
    drafts: PromptLookup | None,
    prefix_cache: PrefixCache | None,
) -> RowsDecoding:
    """Check all arguments and make the loop."""
    sampling, stopping, tokenizer = options.sampling, options.stopping, options.tokenizer
    check_predicts_next(model)
    check_kind("sampling", sampling, Sampling, cure="Sampling(temperature=0.8) draws, and without any it is greedy")
    check_kind("tokenizer", tokenizer, Tokenizer, type(None), cure="load_tokenizer(folder) reads the model's own")
    check_logprobs(options.logprobs)
    check_kind("drafts", drafts, PromptLookup, type(None), cure="PromptLookup() drafts from the text")
    lookup = make_lookup(model, retriever)
    stopping.check_vocab(model.vocab_size)
    beginning = begin(model, prompt, state, stopping.max_new_tokens, sampling)
    if prefix_cache is not None:
        check_kind("prefix_cache", prefix_cache, PrefixCache)
        if drafts is not None:
            raise ValueError(
                "drafts must be None with a prefix_cache, but both are given: drafts come from the whole text, which "
                "is not read again."
            )
        beginning = read_prefixes(beginning, PrefixReader(model, prefix_cache, lookup))
    if drafts is None:
        return Decoding(model, beginning, options, lookup)
    if lookup is not None:
        raise ValueError(
            "drafts must be None with a retriever, but both are given: neighbours are found for chunks that end, "
            "and a draft may be wrong."
        )
    if sampling.has_penalties:
        raise ValueError(
            "drafts must be None with penalties, which change with every token, but both are given; leave one out."
        )
    return DraftedDecoding(model, beginning, options, NgramIndex(drafts), pauses=drafts.pauses)


class _RowsLog:
    """What rows get. Tokens stay on the model's device: an 8-byte number a token, and no wait for the device."""

    def __init__(self, decoding: RowsDecoding, *, has_text: bool, has_logprobs: bool) -> None:
        self._decoding = decoding
        self._lengths = [0] * decoding.num_rows
        self._blocks: list[Int[Tensor, "rows block"]] = []
        self._steps = 0
        self._texts = [list[str]() for _ in range(decoding.num_rows if has_text else 0)]
        self._logprobs = [list[TokenLogprobs]() for _ in range(decoding.num_rows if has_logprobs else 0)]

    def add_all(self) -> None:
        """Go on until all rows have ended."""
        self._decoding.keep_model()
        while self._decoding.active:
            self._add(self._decoding.active, self._decoding.step())

    def _add(self, rows: list[int], tokens: Int[Tensor, "active"]) -> None:
        """Note what some rows got in the newest step."""
        decoding, column = self._decoding, self._steps % _KEPT_TOGETHER
        if column == 0:
            shape = (decoding.num_rows, _KEPT_TOGETHER)
            self._blocks.append(torch.zeros(shape, dtype=torch.long, device=decoding.device))
        if len(rows) == decoding.num_rows:
            self._blocks[-1][:, column] = tokens
        else:
            self._blocks[-1][rows, column] = tokens
        for row in rows:
            self._lengths[row] += 1
            if self._texts:
                self._texts[row].append(decoding.texts[row])
            if self._logprobs:
                self._logprobs[row].append(cast("TokenLogprobs", decoding.logprobs[row]))
        self._steps += 1

    def result(self) -> GenerationResult:
        """All of it, after the last step."""
        whole = torch.cat(self._blocks, 1)
        return GenerationResult(
            tokens=[whole[row, :length].clone() for row, length in enumerate(self._lengths)],
            state=self._decoding.state(),
            ended=tuple(cast("list[TextEnd]", self._decoding.ended)),
            text=tuple("".join(parts) for parts in self._texts) or None,
            logprobs=tuple(map(tuple, self._logprobs)) or None,
        )
