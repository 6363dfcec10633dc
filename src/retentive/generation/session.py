"""A text that a model goes on with, step by step: what ``retentive generate`` prints."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from retentive.checkpoints import GenerationState, load_model, load_state, read_state_metadata, save_state
from retentive.checkpoints.devices import chosen_device
from retentive.checkpoints.transformers_files import ends_of_generation
from retentive.checkpoints.weights import load_own_tokenizer
from retentive.config_types import check_count, check_kind, check_types
from retentive.data.neighbours.stores import FOLDER
from retentive.engine.choice import check_engine
from retentive.errors import MismatchError
from retentive.files.targets import check_file_target
from retentive.generation.chat.conversation import Conversation, next_turn
from retentive.generation.drafts.prompt_lookup import PromptLookup
from retentive.generation.generator import TokenStream, stream
from retentive.generation.logprobs import check_logprobs, shown
from retentive.generation.neighbours.display import NeighbourDisplay
from retentive.generation.neighbours.file import read_neighbours
from retentive.generation.neighbours.retrieval import Retrieval, StoreRetriever
from retentive.generation.sampling import Sampling
from retentive.generation.stop_strings import TextUntil, checked_stop_strings
from retentive.generation.text_stream import TextStream
from retentive.models.protocol import ChunkedReading
from retentive.retrieval import Datastore
from retentive.state import ModelState
from retentive.text.chat_template import ChatTemplate, load_chat_template
from retentive.text.tokenizer import Tokenizer, begin_of, encode_prompt, ids_without_text


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Write text with a trained model.

    Args:
        checkpoint: Folder of a model, as "retentive train" writes it.
        prompt: Text to go on from; "-" reads it from standard input. Without it a new document begins, or the state
            goes on.
        max_new_tokens: Tokens to write at most.
        temperature: Divides the logits: below 1, likely tokens become likelier; 0 always takes the likeliest.
        top_k: Draw among this many of the likeliest tokens.
        top_p: Draw among the fewest tokens whose probabilities add up to this.
        min_p: Draw among tokens that are at least this share as likely as the likeliest.
        repetition_penalty: Above 1, tokens that the text has, the prompt included, come again more seldom.
        presence_penalty: Subtracted from the logits of tokens that were written already.
        frequency_penalty: Subtracted from the logits of tokens as often as they were written already.
        seed: The same seed writes the same text; without it, another text each time.
        logit_bias: Token ids and what is added to their logits, as in "262:-5,90:2.5".
        stop: Ends the text where the model writes this; of several, as in --stop Q: --stop A:, the first. It may begin
            in the call that saved the state, where its begin was printed.
        logprobs: Say on standard error how likely each token was, and so many of the likeliest, a line of JSON each.
        stop_at_end: Stop where the model ends the document.
        chat: Let the prompt be a user's message, written by the chat template that comes with the model, and stop at
            the end of the answer. With a state, it is the next message of that conversation.
        system: For chat: what stands before the first message, and says how to answer.
        state: File of a saved state to go on from; the prompt, if any, is read after it.
        save_state: File to write the state to at the end, or on Ctrl-C.
        echo: Print the prompt before the text.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        store: For a RETRO: folder of the datastore to find neighbours in, or of a token store that has one. It need not
            be the one of its training. Without it, no neighbours are read.
        neighbours: For a RETRO: a text file of your own neighbours, one a line, instead of a store. Every chunk reads
            all of them.
        k: Neighbours of each chunk in the store.
        every: Look for neighbours after every so many new tokens; without it, once a chunk.
        end_with_prompt: Let the prompt end a chunk, so that what was found for it is read from the first new token on.
        show_neighbours: Say on standard error which neighbours were read, from which token on.
        drafts: Draft up to so many tokens from what the text said before, and read them in one call, where that gains
            time; the text stays the same. Not with a store or neighbours.
        engine: "eager" starts at once; "compile" needs a C++ compiler and up to a minute, then less time a token;
            "onnx" needs retentive[onnx], a CPU and some seconds; "onnx-int8" and "onnx-int4" round the weights, too; a
            folder of "retentive export" was made before.
    """

    checkpoint: Path
    prompt: str | None = None
    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: str | None = None
    stop: str | tuple[str, ...] = ()
    logprobs: int | None = None
    stop_at_end: bool = True
    chat: bool = False
    system: str | None = None
    state: Path | None = None
    save_state: Path | None = None
    echo: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    store: Path | None = None
    neighbours: Path | None = None
    k: int = 2
    every: int | None = None
    end_with_prompt: bool = False
    show_neighbours: bool = False
    drafts: int | None = None
    engine: str = "eager"

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_engine(self.engine)
        check_kind("stop", self.stop, str, tuple, list, cure="give a text, several in a tuple, or leave it out")
        checked_stop_strings(self.stop_strings)
        check_logprobs(self.logprobs)
        assert self.sampling is not None  # what cannot be is refused before the model is loaded
        if self.drafts is not None:
            check_count("drafts", self.drafts, unit="token")
            if self.store is not None or self.neighbours is not None:
                raise ValueError(
                    "drafts must be left out with store or neighbours, which are found for chunks that end."
                )
        if self.store is not None and self.neighbours is not None:
            raise ValueError("store and neighbours must not both be given: neighbours are found, or your own.")
        if self.chat and self.prompt is None:
            raise ValueError("prompt must be given for chat, but is not: it is the user's message.")
        if self.system is not None and (not self.chat or self.state is not None):
            raise ValueError("chat must begin with this call for system to mean anything: give chat, and no state.")
        if self.store is None and self.show_neighbours:
            raise ValueError("store must be given for show_neighbours, but is not: neighbours are found in it.")
        if self.store is None and self.k != GenerateConfig.k:
            raise ValueError("store must be given for k, but is not: so many neighbours are found in it.")
        if self.store is None and self.neighbours is None and (self.every is not None or self.end_with_prompt):
            raise ValueError("store or neighbours must be given for every and end_with_prompt, but neither is.")

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn; temperature 0 always takes the likeliest."""
        return Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            seed=self.seed,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=() if self.logit_bias is None else _biases(self.logit_bias),
        )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end the text."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop


@dataclass(frozen=True, slots=True)
class Written:
    """What one step gave.

    Attributes:
        text: The characters that are whole now; may be empty.
        beside: Lines that show the neighbours found in this step and the token's log-probability, where they were asked
            for.
    """

    text: str
    beside: tuple[str, ...]


class TextSession:
    """A model, its tokenizer and a stream of text after a prompt or a saved state.

    Args:
        config: What is loaded, and how tokens are drawn.
        prompt: Text to go on from.

    Attributes:
        before: What is left of a character that the saved state ends in and the prompt cuts off.

    Raises:
        ValueError: If a file for the state cannot be written, or an option does not fit the model.
        FileNotFoundError: If the folder holds no model.
    """

    def __init__(self, config: GenerateConfig, prompt: str | None) -> None:
        device = chosen_device(config.device)
        if config.save_state is not None:
            _check_target(config.save_state)
        self._config = config
        self._model, self._tokenizer = load_model(config.checkpoint, device), load_own_tokenizer(config.checkpoint)
        state = None if config.state is None else load_state(config.state, self._model)
        retrieval, self._display = _retrieval(config, self._model.chunked_reading, self._tokenizer)
        self._tokens = self._stream(prompt, state, retrieval)
        metadata = None if config.state is None else read_state_metadata(config.state)
        self.before = ""
        if prompt:
            self.before, metadata = TextStream(self._tokenizer, metadata).finish(), None
        self._text = TextUntil(self._tokenizer, config.stop_strings, metadata)

    def __iter__(self) -> Iterator[Written]:
        """Draw one token after another, until a stop string is complete."""
        shows = self._display is not None and self._config.show_neighbours
        for (token,) in self._tokens:
            assert token is not None  # the only row
            lines = self._display.new_lines(self._tokens) if shows and self._display is not None else []
            (likely,) = self._tokens.logprobs
            if likely is not None:
                lines = [*lines, json.dumps(shown(token, likely, self._tokenizer))]
            yield Written(self._text.push(token), tuple(lines))
            if self._text.has_ended:
                return

    def rest(self) -> str:
        """What was held back, and what is left of a character; of one whose bytes the saved state keeps, nothing."""
        return self._text.finish() if self._config.save_state is None else self._text.held

    def save(self, path: Path) -> None:
        """Write the state, with the bytes of a character that is not whole yet and the begin of a stop string."""
        save_state(self._tokens.state, path, self._model, metadata=self._text.metadata)

    def _stream(
        self, prompt: str | None, state: ModelState | GenerationState | None, retrieval: Retrieval | None
    ) -> TokenStream:
        config, tokenizer = self._config, self._tokenizer
        vocab_size = self._model.config.decoder.embedding.vocab_size
        ends = (tokenizer.end_of_text, *(end for end in ends_of_generation(config.checkpoint) if end < vocab_size))
        if config.chat and prompt:
            template = load_chat_template(config.checkpoint, tokenizer=tokenizer)
            ends = (*ends, *template.ends)
            ids, state = _message(template, prompt, config.system, state, ends)
        elif state is None:
            ids = encode_prompt(tokenizer, prompt or "") or [begin_of(tokenizer)]
        else:
            ids = tokenizer.encode(prompt) if prompt else []
        return stream(
            self._model,
            ids or None,
            max_new_tokens=config.max_new_tokens,
            sampling=replace(config.sampling, never=ids_without_text(tokenizer, vocab_size)),
            stop_tokens=ends if config.stop_at_end else [],
            logprobs=config.logprobs,
            state=state,
            retriever=retrieval,
            engine=config.engine,
            drafts=None if config.drafts is None else PromptLookup(longest=config.drafts),
        )


def _biases(pairs: str) -> tuple[tuple[int, float], ...]:
    """Pairs of an id and a bias."""
    try:
        parted = [pair.split(":") for pair in pairs.split(",")]
        return tuple((int(token), float(bias)) for token, bias in parted)
    except ValueError as error:
        raise ValueError(
            f"logit_bias must be pairs of a token id and a number, as in '262:-5,90:2.5', but is {pairs!r}."
        ) from error


def _retrieval(
    config: GenerateConfig, chunks: ChunkedReading | None, tokenizer: Tokenizer
) -> tuple[Retrieval | None, NeighbourDisplay | None]:
    """What finds neighbours, and what shows those of a datastore; None where none are asked for.

    ``stream`` refuses a retriever for a model that reads none, so ``chunks`` may be None here.
    """
    if config.neighbours is not None:
        size = 1 if chunks is None else chunks.chunk_size
        own = read_neighbours(config.neighbours, tokenizer, size)
        return Retrieval(retriever=own, every=config.every, end_with_prompt=config.end_with_prompt), None
    if config.store is None:
        return None, None
    retriever, display = open_store(config.store, config.k, chunks, tokenizer)
    return Retrieval(retriever=retriever, every=config.every, end_with_prompt=config.end_with_prompt), display


def open_store(
    folder: Path, k: int, chunks: ChunkedReading | None, tokenizer: Tokenizer
) -> tuple[StoreRetriever, NeighbourDisplay]:
    """What finds ``k`` neighbours in a datastore, or in that of a token store, and what shows them."""
    inside = folder / FOLDER / "train"
    # The model's own tokenizer can be of a kind that a datastore does not know by itself.
    store = Datastore.open(inside if inside.is_dir() else folder, tokenizer=tokenizer)
    retriever = StoreRetriever(store, k=k, tokenizer=tokenizer)
    return retriever, NeighbourDisplay(store, retriever, chunk_offset=0 if chunks is None else chunks.chunk_offset)


def _message(
    template: ChatTemplate,
    prompt: str,
    system: str | None,
    state: ModelState | GenerationState | None,
    ends: Collection[int],
) -> tuple[list[int], ModelState | GenerationState | None]:
    """The tokens of a user's message, and the state they are read after."""
    new = [{"role": "user", "content": prompt}]
    if state is None:
        return template.encode([*([] if system is None else [{"role": "system", "content": system}]), *new]), None
    if not isinstance(state, GenerationState):
        raise MismatchError("state must be one that generate or chat saved, for chat: it has no newest token.")
    ended = int(state.unread[0]) in ends
    # What was said before does not matter for what follows an answer.
    before = Conversation(messages=({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    return next_turn(template, replace(before, state=state, ended=ended), new)


def _check_target(path: Path) -> None:
    """Refuse a file that cannot be written before the text is made, not after it."""
    if not path.parent.exists():
        raise ValueError(f"save_state must be in a folder that is there, but {path.parent} is none: make it first.")
    check_file_target("save_state", path, suggestion="session.safetensors")
