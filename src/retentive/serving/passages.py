"""Passages of the datastore as the API shows them."""

from typing import Any

import numpy as np

from retentive.generation import RequestStep
from retentive.retrieval import Datastore
from retentive.serving.service import Service
from retentive.serving.shared_store import SharedStore
from retentive.serving.wire.common import Passage, ReadPassages


def search(store: SharedStore, query: str, k: int) -> list[Passage]:
    """The passages nearest to a text."""
    return [
        Passage(id=hit.chunk, score=hit.score, document=hit.document, position=hit.first_token, text=hit.text)
        for hit in store.find(query, k)
    ]


def read_passages(service: Service, step: RequestStep) -> list[ReadPassages]:
    """What a row of a RETRO read in a step; empty where nothing was asked for or found."""
    if service.store is None:
        return []
    return [_of_chunk(service.store.store, one) for one in getattr(step, "neighbours", ())]


def _of_chunk(store: Datastore, read: Any) -> ReadPassages:
    passages = [
        _passage(store, identity, score) for identity, score in zip(read.ids, read.scores, strict=True) if identity >= 0
    ]
    return ReadPassages(from_token=read.from_token, passages=passages)


def _passage(store: Datastore, identity: int, score: float) -> Passage:
    corpus = store.corpus
    document = int(corpus.documents(np.array([identity]))[0])
    tokens = corpus.tokens(np.array([identity]))[0]
    return Passage(
        id=identity,
        score=score,
        document=corpus.document_name(document),
        position=(identity - corpus.chunks_of(document).start) * corpus.chunk_size,
        text=store.tokenizer.decode(tokens[tokens >= 0].tolist()),
    )
