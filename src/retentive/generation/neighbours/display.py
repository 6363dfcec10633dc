"""Which neighbours a model read while it wrote, in words."""

from typing import cast

import numpy as np

from retentive.generation.generator import TokenStream
from retentive.generation.neighbours.retrieval import RetrievedNeighbours, StoreRetriever
from retentive.models.retro import RetroState
from retentive.retrieval import Datastore


class NeighbourDisplay:
    """Describes what a retriever has found since it was last asked."""

    def __init__(self, store: Datastore, retriever: StoreRetriever, *, chunk_offset: int) -> None:
        """Begin with nothing shown.

        Args:
            store: Where the retriever looks.
            retriever: Keeps what it found.
            chunk_offset: Tokens of a document before its first chunk.
        """
        self._store, self._retriever, self._offset = store, retriever, chunk_offset
        self._shown = 0

    def new_lines(self, tokens: TokenStream) -> list[str]:
        """Lines about what was found since the last call, and from which token on it was read; empty without any."""
        found = self._retriever.found[self._shown :]
        if not found:
            return []
        self._shown += len(found)
        state = cast("RetroState", tokens.state.model)  # no other family asks a retriever
        last = int(state.position[0]) - int(state.place[0])
        lines: list[str] = []
        for before, chunk in zip(range(len(found) - 1, -1, -1), found, strict=True):
            # The end-of-text token before a document does not count as one of its tokens.
            end = last - before * self._store.chunk_size - self._offset
            lines.append(f"\n[after {end:,} tokens, for {self._shortened(list(chunk.chunk))}")
            lines += [f"   {line}" for line in self._lines(chunk)]
            lines.append("]")
        return lines

    def _lines(self, chunk: RetrievedNeighbours) -> list[str]:
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
