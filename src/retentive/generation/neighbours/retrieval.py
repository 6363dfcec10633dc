"""Neighbours during generation: each row's chunk is looked up as soon as it has ended, once."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from retentive.config_types import check_count, check_types
from retentive.engine import TokensCall
from retentive.errors import MismatchError
from retentive.models.layer_states import state_of_kind
from retentive.models.protocol import LanguageModel
from retentive.models.retro import Retro, RetroState, begin_chunks_late, end_chunks_every
from retentive.shapes import TokenMask, Tokens
from retentive.state import ModelState

Retriever = Callable[[Int[Tensor, "ended chunk"]], Int[Tensor, "ended neighbours length"]]
"""Finds neighbours: chunks (token ids, -1 before the first token of a shorter one) go in, for each of them ``k``
neighbours of ``length`` tokens come out, -1 where there is no token. Any function can be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """A retriever, and when it is asked; a plain retriever is asked once for each chunk that ends.

    Attributes:
        retriever: Finds the neighbours.
        every: During generation, look up the last ``chunk_size`` tokens after every so many new tokens (the retrieval
            step of arXiv:2304.06762); None looks up once per chunk.
        end_with_prompt: Let each prompt end a chunk, its first chunk being shorter, as if the prompt were padded at its
            left (the left-padding rule of the same paper): so its neighbours are read from the first new token on. A
            text that goes on from a state keeps the chunks that it has.
    """

    retriever: Retriever
    every: int | None = None
    end_with_prompt: bool = False

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if not callable(self.retriever):
            raise TypeError(
                f"retriever must be a function from chunks to neighbours, such as a StoreRetriever, but is a "
                f"{type(self.retriever).__name__}."
            )
        if self.every is not None and self.every < 1:
            raise ValueError(f"every must be at least 1 token, but is {self.every}.")


@dataclass(frozen=True, slots=True)
class ReadNeighbours:
    """What a row read beside its tokens.

    Attributes:
        from_token: How many tokens of the text, with what stands before a document, are read without it.
        chunk: Token ids of the chunk that it was found for.
        tokens: Token ids of each neighbour.
        ids: Of the chunks in the datastore, -1 where there were no more; empty for retrievers of another kind.
        scores: How near each is; see there.
    """

    from_token: int
    chunk: tuple[int, ...]
    tokens: tuple[tuple[int, ...], ...]
    ids: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()


class Lookup:
    """Asks a retriever for the chunks that end in a model's calls.

    Attributes:
        read: What each slot of `TokensCall.slots` read in the last calls.
    """

    def __init__(self, model: Retro, retrieval: Retrieval) -> None:
        """Check that the retrieval fits the model.

        Raises:
            ValueError: If the retrieval step is longer than a chunk.
            MismatchError: If the retriever's datastore is not one for this model.
        """
        self._model, self._retrieval = model, retrieval
        self.read: dict[int, list[ReadNeighbours]] = {}
        size = model.config.chunk_size
        if retrieval.every is not None and retrieval.every > size:
            raise ValueError(f"every must be at most chunk_size = {size} tokens, but is {retrieval.every}.")
        if isinstance(retrieval.retriever, StoreRetriever):
            retrieval.retriever.check(model)

    def fingerprint(self) -> str:
        """What tells the neighbours that are found from those of any other retriever, for a prefix cache.

        Raises:
            ValueError: If nothing does, or neighbours depend on how long a prompt is.
        """
        if self._retrieval.end_with_prompt:
            raise ValueError(
                "end_with_prompt must be False with a prefix_cache: it cuts each prompt into chunks by its length, so "
                "that states after equal begins differ."
            )
        known = getattr(self._retrieval.retriever, "fingerprint", None)
        if not callable(known):
            raise ValueError(
                "retriever must have a method `fingerprint` for a prefix_cache, which tells its answers from those of "
                f"any other, but a {type(self._retrieval.retriever).__name__} has none; StoreRetriever has one."
            )
        return str(known())

    @property
    def reads_between_chunks(self) -> bool:
        """Whether a text that is being continued ends chunks where a prompt would not."""
        return self._retrieval.every is not None

    def begin(self, tokens: Tokens, mask: TokenMask | None, state: ModelState | None) -> ModelState | None:
        """The state that a prompt begins with; one token after a state is the newest of an earlier generation."""
        if state is not None and tokens.shape[1] == 1:
            return self.before_token(state)
        if state is not None or not self._retrieval.end_with_prompt:
            return state
        config = self._model.config
        lengths = torch.full_like(tokens[:, 0], tokens.shape[1]) if mask is None else mask.sum(1)
        return begin_chunks_late(
            self._model.initial_state(len(tokens)), lengths, config.chunk_size, config.chunk_offset
        )

    def before_token(self, state: ModelState) -> ModelState:
        """The state before one more token is read."""
        every = self._retrieval.every
        if every is None:
            return state
        checked = self._checked(state)
        if max(checked.place.tolist()) < every - 1:
            return checked  # the same object, so that an engine keeps its buffers
        return end_chunks_every(checked, every, self._model.config.chunk_size)

    def _checked(self, state: ModelState) -> RetroState:
        """The state, if it is of the family: it is asked for before each token, and the model checks all else of it."""
        return state_of_kind(state, RetroState, "a RETRO")

    def arguments(self, calls: Sequence[TokensCall]) -> list[dict[str, Tensor]]:
        """The neighbours of the chunks that end in each call, by the name of the argument; empty without any.

        The retriever is asked once, for the chunks of all calls.

        Raises:
            ValueError: If the retriever does not answer each chunk.
        """
        self.read = {}
        ended = [self._ended_chunks(call) for call in calls]
        real = [None if chunks is None else (chunks != -1).any(2) for chunks in ended]
        asked = [chunks[there] for chunks, there in zip(ended, real, strict=True) if chunks is not None]
        counts = [0 if there is None else int(there.sum()) for there in real]
        if not sum(counts):
            return [{} for _ in calls]
        chunks, retriever = torch.cat(asked), self._retrieval.retriever
        noted = len(retriever.found) if isinstance(retriever, StoreRetriever) else 0
        answer = self._ask(chunks)
        if any(call.slots for call in calls):
            answers = retriever.found[noted:] if isinstance(retriever, StoreRetriever) else []
            self._note(calls, real, chunks, answer, answers)
        found = answer.split(counts)
        return [
            {"neighbours": _in_places(part, there)} if there is not None and len(part) else {}
            for part, there in zip(found, real, strict=True)
        ]

    def neighbours(
        self, tokens: Tokens, mask: TokenMask | None, state: ModelState | None
    ) -> Int[Tensor, "batch chunks neighbours length"] | None:
        """The neighbours for one call; see `arguments`."""
        return self.arguments([TokensCall(tokens, mask, state)])[0].get("neighbours")

    def _ended_chunks(self, call: TokensCall) -> Int[Tensor, "batch chunks chunk"] | None:
        """The chunks that end in a call; None where it is plain that none does."""
        # Most new tokens end no chunk, and are not asked about further.
        last, state = self._model.config.chunk_size - 1, call.state
        if call.tokens.shape[1] == 1 and state is not None and max(self._checked(state).place.tolist()) < last:
            return None
        return self._model.ended_chunks(call.tokens, state, mask=call.mask)

    def _note(
        self,
        calls: Sequence[TokensCall],
        real: Sequence[Tensor | None],
        chunks: Int[Tensor, "ended chunk"],
        found: Int[Tensor, "ended neighbours length"],
        answers: "Sequence[RetrievedNeighbours]",
    ) -> None:
        """Note what each row of the calls reads."""
        size, offset, number = self._model.config.chunk_size, self._model.config.chunk_offset, 0
        for call, there in zip(calls, real, strict=True):
            if there is None:
                continue
            state = None if call.state is None else self._checked(call.state)
            counts: list[int] = there.sum(1).tolist()
            for row, count in enumerate(counts):
                begin, place = (0, -offset) if state is None else (int(state.position[row]), int(state.place[row]))
                for ended in range(1, count + 1):
                    end, neighbours = begin - place + ended * size, found[number].tolist()
                    noted = ReadNeighbours(
                        from_token=end,
                        chunk=tuple(token for token in chunks[number].tolist() if token >= 0),
                        tokens=tuple(tuple(token for token in tokens if token >= 0) for tokens in neighbours),
                        ids=answers[number].ids if answers else (),
                        scores=answers[number].scores if answers else (),
                    )
                    number += 1
                    if call.slots:
                        self.read.setdefault(call.slots[row], []).append(noted)

    def _ask(self, asked: Int[Tensor, "ended chunk"]) -> Int[Tensor, "ended neighbours length"]:
        """The retriever's answer, checked."""
        with torch.inference_mode(False), torch.no_grad():
            found: Any = self._retrieval.retriever(asked.clone())
        if not isinstance(found, Tensor) or found.ndim != 3 or len(found) != len(asked):
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"retriever must return neighbours of shape (chunks, k, length) for its {len(asked)} chunks, but "
                f"returned {what}."
            )
        if found.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"retriever must return integer ids (int64 or int32), but returned {found.dtype}.")
        return found


def _in_places(
    found: Int[Tensor, "ended neighbours length"], there: Bool[Tensor, "batch chunks"]
) -> Int[Tensor, "batch chunks neighbours length"]:
    """Neighbours in the places of their chunks; -1 in those of no chunk."""
    every = torch.full((*there.shape, *found.shape[1:]), -1, dtype=torch.long, device=there.device)
    every[there] = found.to(every)
    return every


def make_lookup(model: LanguageModel, retriever: object) -> Lookup | None:
    """Make the `Lookup` of a retriever (or a `Retrieval`) for a model; None without one.

    Raises:
        ValueError: If the model reads no neighbours.
    """
    if retriever is None:
        return None
    if model.chunked_reading is None:
        raise ValueError(
            f"retriever must be None for a {model.config.family}, which reads no neighbours, but is a "
            f"{type(retriever).__name__}."
        )
    # Retrieval validates the retriever.
    retrieval = retriever if isinstance(retriever, Retrieval) else Retrieval(retriever=cast("Retriever", retriever))
    return Lookup(cast("Retro", model), retrieval)


class OwnNeighbours:
    """The caller's own neighbours, the same for every chunk."""

    def __init__(self, neighbours: Sequence[Sequence[int]], chunk_size: int) -> None:
        """Pad shorter neighbours to one length.

        Args:
            neighbours: Token ids of each; any number of them, of any lengths.
            chunk_size: The model's: no neighbour is shorter.

        Raises:
            ValueError: If there is none, or one has no token.
        """
        check_count("chunk_size", chunk_size, unit="token")
        if not neighbours or not all(neighbours):
            raise ValueError(
                f"neighbours must be at least one, and each at least one token, but their lengths are "
                f"{[len(tokens) for tokens in neighbours]}; without neighbours, leave the retriever out."
            )
        length = max(chunk_size, *map(len, neighbours))
        self._tokens = torch.full((1, len(neighbours), length), -1)
        for row, tokens in enumerate(neighbours):
            self._tokens[0, row, : len(tokens)] = torch.tensor(tokens)

    def fingerprint(self) -> str:
        """Tells these neighbours from all others."""
        return hashlib.sha256(f"own {self._tokens.tolist()}".encode()).hexdigest()

    def __call__(self, chunks: Int[Tensor, "ended chunk"]) -> Int[Tensor, "ended neighbours length"]:
        """Return the same neighbours for each chunk."""
        return self._tokens.expand(len(chunks), -1, -1)


@runtime_checkable
class SearchableStore(Protocol):
    """What a `StoreRetriever` needs of a datastore."""

    tokenizer: Any

    @property
    def chunk_size(self) -> int:
        """Tokens per chunk."""
        ...

    def search(self, query: Any, k: int) -> Any:
        """The ``k`` nearest chunks of each query, with ``ids``, ``scores`` and ``tokens``."""
        ...


@dataclass(frozen=True, slots=True)
class RetrievedNeighbours:
    """One answer of a datastore.

    Attributes:
        chunk: Token ids that were looked for.
        ids: Ids of the chunks that were found, -1 where there were no more.
        scores: How near each is.
    """

    chunk: tuple[int, ...]
    ids: tuple[int, ...]
    scores: tuple[float, ...]


class StoreRetriever:
    """Looks for neighbours in a `Datastore`; a model may be given another store than it was trained with.

    Attributes:
        found: What was found, in order.
    """

    def __init__(self, store: SearchableStore, k: int = 2, tokenizer: Any = None) -> None:
        """Look for ``k`` neighbours.

        Args:
            store: Where to look.
            k: How many for each chunk.
            tokenizer: The model's, which the store's is compared with; None compares only vocabularies.

        Raises:
            ValueError: If ``k`` is no whole number from 1 on.
            MismatchError: If the tokenizers differ.
        """
        check_count("k", k, unit="neighbour")
        if tokenizer is not None and tokenizer.fingerprint() != store.tokenizer.fingerprint():
            raise MismatchError(
                "the datastore's tokenizer must be the model's, but their fingerprints differ "
                f"({store.tokenizer.fingerprint()[:12]} and {tokenizer.fingerprint()[:12]}); build the datastore with "
                "the model's tokenizer."
            )
        self._store, self._k = store, k
        self.found: list[RetrievedNeighbours] = []

    def check(self, model: Retro) -> None:
        """Validate that the model has the store's chunk size and token ids.

        Raises:
            MismatchError: If it has others.
        """
        ours, theirs = model.config.chunk_size, self._store.chunk_size
        if ours != theirs:
            raise MismatchError(
                f"the datastore's chunk_size must be the model's, {ours}, but is {theirs}; build it with "
                f"chunk_size={ours}."
            )
        if self._store.tokenizer.vocab_size > model.config.vocab_size:
            raise MismatchError(
                f"the datastore's tokenizer must have no more tokens than the model, {model.config.vocab_size}, but "
                f"has {self._store.tokenizer.vocab_size}; build the datastore with the model's tokenizer."
            )

    def fingerprint(self) -> str:
        """Tells the answers of this version of the store from all others.

        Raises:
            ValueError: If the store does not say its version.
        """
        version = getattr(self._store, "version", None)
        if version is None:
            raise ValueError("store must have a `version` for a prefix_cache, which changes with what it finds.")
        return f"store {version} k {self._k}"

    def __call__(self, chunks: Int[Tensor, "ended chunk"]) -> Int[Tensor, "ended neighbours length"]:
        """The neighbours of each chunk."""
        # Ids that only the model has, such as its end-of-text, are not text.
        asked = chunks.where(chunks < self._store.tokenizer.vocab_size, -1).cpu().numpy()
        answer = self._store.search(np.ascontiguousarray(asked), self._k)
        for row, chunk in enumerate(chunks.tolist()):
            self.found.append(
                RetrievedNeighbours(tuple(chunk), tuple(answer.ids[row].tolist()), tuple(answer.scores[row].tolist()))
            )
        # A store of fewer chunks than k has nothing in the last places of any row: they need not be read.
        most = max(1, int((answer.ids >= 0).sum(1).max()))
        return torch.from_numpy(np.asarray(answer.tokens[:, :most], dtype=np.int64))
