"""Passages of the datastore as the API shows them: those that are found, and those that a row has read."""

import asyncio
from typing import cast

import torch

from retentive.checkpoints import GenerationState
from retentive.generation import Request, RequestStep, StoreRetriever
from retentive.models.retro import Retro, RetroState
from retentive.retrieval.search.answers import Answer
from retentive.serving.errors import invalid
from retentive.serving.service import Service
from retentive.serving.shared_store import SharedStore
from retentive.serving.wire.common import Passage, ReadPassages


def search(store: SharedStore, query: str, k: int) -> list[Passage]:
    """The passages nearest to a text.

    Raises:
        ApiError: 400, if the query is blank or cannot be read.
    """
    try:
        return [_passage(answer) for answer in store.find(query, k)]
    except ValueError as error:
        raise invalid(str(error).replace("text must", "query must", 1), "query") from error


class Reading:
    """Which passages one row of a RETRO reads. It asks the store what the model asks, chunk by chunk.

    Args:
        service: Serves a RETRO with a store.
        request: The row's.
    """

    def __init__(self, service: Service, request: Request) -> None:
        assert service.store is not None
        self._store, self._model = service.store, cast("Retro", service.model)
        self._retriever = StoreRetriever(service.store, k=service.config.k, tokenizer=service.words.tokenizer)
        state, unread = request.state, list[int]()
        if isinstance(state, GenerationState):
            state, unread = state.model, state.unread.tolist()
        self._carried = cast("RetroState | None", state)
        self._tokens = [*unread, *request.prompt]
        config = self._model.config
        self._size = config.chunk_size
        self._position = 0 if self._carried is None else int(self._carried.position[0])
        self._place = -config.chunk_offset if self._carried is None else int(self._carried.place[0])
        self._told = 0

    @property
    def _ended(self) -> int:
        """Chunks that have ended since the row began."""
        return max(0, (self._place + len(self._tokens)) // self._size)

    async def step(self, token: int) -> list[ReadPassages]:
        """Take a row's newest token, before which all others are read; return what was found for chunks that ended."""
        found = [] if self._ended == self._told else await asyncio.to_thread(self._read)
        self._tokens.append(token)
        return found

    def _read(self) -> list[ReadPassages]:
        tokens = torch.tensor([self._tokens], device=self._model.device)
        chunks = self._model.ended_chunks(tokens, self._carried)[0, self._told :]
        self._retriever.found.clear()
        self._retriever(chunks)
        first, self._told = self._told, self._ended
        read: list[ReadPassages] = []
        for number, found in enumerate(self._retriever.found, first + 1):
            pairs = zip(found.ids, found.scores, strict=True)
            passages = [_passage(self._store.passage(chunk, score)) for chunk, score in pairs if chunk >= 0]
            from_token = self._position + number * self._size - self._place
            read.append(ReadPassages(from_token=from_token, passages=passages))
        return read


def readings_of(service: Service, requests: list[Request], *, are_asked: bool) -> list[Reading | None]:
    """A reading for each row; None where nobody asked.

    Raises:
        ApiError: 400, if they are asked for and nothing is read.
    """
    if are_asked and not service.reads_neighbours:
        raise invalid("return_neighbours needs a RETRO that is served with a store.", "return_neighbours")
    return [Reading(service, request) if are_asked else None for request in requests]


async def read_passages(reading: Reading | None, step: RequestStep) -> list[ReadPassages]:
    """What a row read in a step; empty where nobody asked, or no chunk has ended."""
    return [] if reading is None or step.token is None else await reading.step(step.token)


def _passage(answer: Answer) -> Passage:
    return Passage(
        id=answer.chunk,
        score=answer.score,
        document=answer.document,
        line=answer.line,
        column=answer.column,
        begin=answer.begin,
        text=answer.text,
    )
