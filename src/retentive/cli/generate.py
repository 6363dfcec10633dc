"""``retentive generate``: text as a stream, and a state that goes on later."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jsonargparse import ArgumentParser, Namespace

from retentive.checkpoints import load_model, load_state, save_state
from retentive.cli.options import add_config, read_config
from retentive.data.neighbour_stores import FOLDER
from retentive.evaluation.model_evaluation import chosen_device
from retentive.generation import OwnNeighbours, Retrieval, Sampling, StoreRetriever, TokenStream, stream
from retentive.generation.retrieval import Found, Retriever
from retentive.generation.text_stream import TextStream
from retentive.models.retro import RetroState
from retentive.retrieval import Datastore
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import Tokenizer

POSITIONAL = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Write text with a trained model.

    Args:
        checkpoint: Folder of a model, as "retentive train" writes it.
        prompt: Text to go on from; "-" reads it from standard input. Without it a new document begins, or the state
            goes on.
        max_new_tokens: Tokens to write at most.
        temperature: Logits are divided by it: below 1 the likely gain; 0 always takes the likeliest.
        top_k: Draw among so many of the likeliest tokens only.
        top_p: Draw among the fewest tokens whose probability reaches this.
        seed: The same seed writes the same text; without it, another text each time.
        stop_at_end: Stop where the model ends the document.
        state: File of a saved state to go on from; the prompt, if any, is read after it.
        save_state: File to write the state to at the end, or on Ctrl-C.
        echo: Print the prompt before the text.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        store: For a RETRO: folder of the datastore to find neighbours in, or of a token store that has one. It need not
            be the one of its training. Without it, no neighbours are read.
        neighbours: For a RETRO: a text file of your own neighbours, one a line, instead of a store. Every chunk reads
            all of them.
        k: Neighbours of each chunk in the store.
        every: Look for neighbours after so many new tokens already; without it, once a chunk.
        end_with_prompt: Let the prompt end a chunk, so that what was found for it is read from the first new token on.
        show_neighbours: Say on standard error which neighbours were read, from which token on.
    """

    checkpoint: Path
    prompt: str | None = None
    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop_at_end: bool = True
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

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', but is {self.device!r}.")
        if self.store is not None and self.neighbours is not None:
            raise ValueError("store and neighbours must not both be given: neighbours are found, or your own.")
        if self.store is None and self.show_neighbours:
            raise ValueError("store must be given for show_neighbours, but is not: neighbours are found in it.")
        if self.store is None and self.k != GenerateConfig.k:
            raise ValueError("store must be given for k, but is not: so many neighbours are found in it.")
        if self.store is None and self.neighbours is None and (self.every is not None or self.end_with_prompt):
            raise ValueError("store or neighbours must be given for every and end_with_prompt, but neither is.")


def add_options(parser: ArgumentParser, arguments: list[str]) -> None:
    """Every field of `GenerateConfig`."""
    add_config(parser, GenerateConfig)


def run(parser: ArgumentParser, options: Namespace) -> None:
    """Stream text to standard output."""
    config = read_config(parser, options, GenerateConfig)
    device = chosen_device(config.device)
    if config.save_state is not None:
        _check_target(config.save_state)
    model = load_model(config.checkpoint, device)
    tokenizer = load_tokenizer(config.checkpoint)
    prompt = _prompt(config.prompt)
    state = None if config.state is None else load_state(config.state, model)
    # Other families have no chunks; a retriever is refused for them by name.
    reading, own = None, None
    if config.store is not None:
        reading = Reading(config, config.store, tokenizer, getattr(model.config, "chunk_offset", 0))
    if config.neighbours is not None:
        own = _retrieval(config, own_neighbours(config.neighbours, tokenizer, getattr(model.config, "chunk_size", 1)))
    ids = tokenizer.encode(prompt) if prompt else []
    if state is None:
        ids = [tokenizer.end_of_text, *ids]  # as every document began in training
    tokens = stream(
        model,
        ids or None,
        max_new_tokens=config.max_new_tokens,
        sampling=_sampling(config),
        stop_tokens=[tokenizer.end_of_text] if config.stop_at_end else [],
        state=state,
        retriever=own if reading is None else reading.retrieval,
    )
    if config.echo and prompt:
        print(prompt, end="", flush=True)
    finished = _print(tokens, TextStream(tokenizer), reading if config.show_neighbours else None)
    if config.save_state is not None:
        save_state(tokens.state, config.save_state, model)
        print(f"state saved: go on with --state {config.save_state}", file=sys.stderr)
    if not finished:
        raise KeyboardInterrupt


def _prompt(asked: str | None) -> str | None:
    """The text to go on from; None where none was asked for."""
    if asked is None:
        return None
    place, content = "prompt", asked.encode("utf-8", "surrogateescape")  # what the shell gave
    if asked == "-":
        place, content = "prompt from standard input", sys.stdin.buffer.read()
    try:
        prompt = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place} must be UTF-8, but its byte {error.start:,} is 0x{content[error.start]:02x}: convert it."
        ) from error
    if not prompt:
        raise ValueError(f"{place} must have at least one character, but is empty: leave it out to go on without.")
    return prompt


def _check_target(path: Path) -> None:
    """Refuse a file that cannot be written, before the text is and not after it."""
    if path.is_dir():
        raise ValueError(f"save_state must be a file, but {path} is a folder: give {path / 'session.safetensors'}.")
    if not path.parent.is_dir():
        raise ValueError(f"save_state must be in a folder that is there, but {path.parent} is none: make it first.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"save_state must be in a folder that can be written to, but {path.parent} cannot.")


def _sampling(config: GenerateConfig) -> Sampling:
    if config.temperature == 0:
        return Sampling(top_k=config.top_k, top_p=config.top_p, seed=config.seed)
    return Sampling(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p, seed=config.seed)


def _print(tokens: TokenStream, text: TextStream, reading: "Reading | None") -> bool:
    """Write text as it comes; False if Ctrl-C ended it."""
    finished = True
    try:
        for (token,) in tokens:
            if reading is not None:
                reading.show(tokens)
            if token is not None:
                print(text.push(token), end="", flush=True)
    except KeyboardInterrupt:
        finished = False
    print(text.finish(), flush=True)
    return finished


def _retrieval(config: GenerateConfig, retriever: Retriever) -> Retrieval:
    return Retrieval(retriever=retriever, every=config.every, end_with_prompt=config.end_with_prompt)


def own_neighbours(path: Path, tokenizer: Tokenizer, chunk_size: int) -> OwnNeighbours:
    """The neighbours of a text file, one a line.

    Raises:
        OSError: If it cannot be read.
        ValueError: If there is none, or it is not UTF-8, or has no text.
    """
    if not path.exists() or path.is_dir():
        raise ValueError(f"neighbours must be a file of text, one neighbour a line, but {path} is none: write one.")
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"neighbours must be a file of UTF-8 text, but {path} is not: convert it.") from error
    if not lines:
        raise ValueError(f"neighbours must be a file with at least one line of text, but {path} has none.")
    return OwnNeighbours([tokenizer.encode(line) for line in lines], chunk_size)


class Reading:
    """What a model reads of a datastore while it writes."""

    def __init__(self, config: GenerateConfig, folder: Path, tokenizer: Tokenizer, offset: int) -> None:
        """Open the datastore.

        Args:
            config: What was asked for.
            folder: Where the datastore lies, or a token store with one.
            tokenizer: The model's.
            offset: Tokens before the first chunk.

        Raises:
            FileNotFoundError: If there is none.
            MismatchError: If it has another tokenizer than the model.
        """
        inside = folder / FOLDER / "train"
        # The model's own tokenizer can be of a kind that a datastore does not know by itself.
        self._store = Datastore.open(inside if inside.is_dir() else folder, tokenizer=tokenizer)
        self._retriever = StoreRetriever(self._store, k=config.k, tokenizer=tokenizer)
        self.retrieval = _retrieval(config, self._retriever)
        self._shown, self._offset = 0, offset

    def show(self, tokens: TokenStream) -> None:
        """Print what was found since the last time, and from where on it was read."""
        found = self._retriever.found[self._shown :]
        if not found:
            return
        self._shown += len(found)
        state = tokens.state.model
        assert isinstance(state, RetroState)
        last = int(state.position[0]) - int(state.place[0])
        for before, chunk in zip(range(len(found) - 1, -1, -1), found, strict=True):
            # The end-of-text before a document is no token of it.
            end = last - before * self._store.chunk_size - self._offset
            print(f"\n[after {end:,} tokens, for {self._shortened(list(chunk.chunk))}", file=sys.stderr)
            for line in self._lines(chunk):
                print(f"   {line}", file=sys.stderr)
            print("]", file=sys.stderr, flush=True)

    def _lines(self, chunk: Found) -> list[str]:
        corpus, lines = self._store.corpus, list[str]()
        for identity, score in zip(chunk.ids, chunk.scores, strict=True):
            if identity < 0:
                continue
            document = int(corpus.documents(np.array([identity]))[0])
            begin = (identity - corpus.chunks_of(document).start) * corpus.chunk_size
            text = self._shortened(corpus.tokens(np.array([identity]))[0].tolist())
            lines.append(f"{corpus.document_name(document)}, token {begin:,}, score {score:.2f}: {text}")
        return lines or ["nothing was found"]

    def _shortened(self, tokens: list[int], most: int = 70) -> str:
        text = " ".join(self._store.tokenizer.decode([token for token in tokens if token >= 0]).split())
        return repr(text if len(text) <= most else text[: most - 1] + "…")
