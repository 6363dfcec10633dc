"""Passages of the datastore as the API shows them."""

from typing import Any

from retentive.generation import RequestStep
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


def read_passages(service: Service, step: RequestStep) -> list[ReadPassages]:
    """What a row of a RETRO read in a step; empty where nothing was asked for or found."""
    store = service.store
    if store is None:
        return []
    return [_of_chunk(store, one) for one in getattr(step, "neighbours", ())]


def _of_chunk(store: SharedStore, read: Any) -> ReadPassages:
    found = zip(read.ids, read.scores, strict=True)
    passages = [_passage(store.passage(identity, score)) for identity, score in found if identity >= 0]
    return ReadPassages(from_token=read.from_token, passages=passages)


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
