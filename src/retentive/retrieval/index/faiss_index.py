"""One FAISS index, memory-mapped; its recall was measured when it was built."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from retentive.files import read_json
from retentive.retrieval.blocks.sealed_folder import MEND
from retentive.retrieval.blocks.vectors import VectorRows, Vectors
from retentive.retrieval.index.faiss_files import read_index, unreadable
from retentive.retrieval.index.protocol import Ranking, nothing

INDEX = "index"
FACTS_FILE = "facts.json"
CANDIDATES_AGAIN = 16
"""For compressed codes: candidates per wanted answer that are compared with the exact vectors."""


class FaissIndex:
    """One FAISS index over a run of vectors, numbered from 0.

    Args:
        index: The FAISS index, over squared Euclidean distance.
        vectors: The vectors that it was built from.
        effort: Name of the parameter that trades speed for recall, ``""`` for an exact index.
        effort_value: Its value.
        exact_again: Candidates for each wanted answer that are compared again with the exact vectors; 0 for none.
    """

    def __init__(self, index: Any, vectors: VectorRows, *, effort: str, effort_value: int, exact_again: int) -> None:
        self._index = index
        self._vectors = vectors
        self._effort = effort
        self._effort_value = effort_value
        self._exact_again = exact_again

    @classmethod
    def open(cls, folder: Path, key: str, vectors: VectorRows) -> "FaissIndex":
        """Open a finished index.

        Raises:
            DamagedFileError: If FAISS cannot read it, or it has another number of vectors.
        """
        place = folder / INDEX / key
        facts = read_facts(folder, key)
        index = read_index(place)
        if index.ntotal != len(vectors):
            raise unreadable(place, f"it has {index.ntotal} vectors, not {len(vectors)}")
        try:
            effort, value, again = facts["effort"], facts["effort_value"], int(facts["exact_again"])
        except KeyError as error:
            raise unreadable(place, f"{FACTS_FILE} lacks {error}") from error
        return cls(index, vectors, effort=effort, effort_value=value, exact_again=again)

    def search(self, queries: Vectors, k: int) -> Ranking:
        """The ``k`` nearest vectors of each query."""
        rows = len(self._vectors)
        if rows == 0 or len(queries) == 0 or k == 0:
            return nothing(len(queries), k)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if not self._exact_again:
            distances, ids = self._candidates(queries, k)
            return np.where(ids >= 0, -distances, -np.inf).astype(np.float32), ids
        _, candidates = self._candidates(queries, min(max(self._exact_again * k, 64), rows))
        return self._compare_again(queries, candidates, k)

    def set_effort(self, value: int, exact_again: int) -> None:
        """Change what trades speed for recall: the parameter's value, and the candidates that are compared again."""
        self._effort_value, self._exact_again = value, exact_again

    def _candidates(self, queries: Vectors, k: int) -> Ranking:
        import faiss

        if self._effort:
            value = max(self._effort_value, k)
            if self._effort == "nprobe":
                lists = faiss.extract_index_ivf(self._index).nlist
                # Enough lists to hold twice the requested number of answers.
                value = min(lists, max(self._effort_value, -(-2 * k * lists // len(self._vectors))))
            faiss.ParameterSpace().set_index_parameter(self._index, self._effort, value)
        distances, ids = self._index.search(queries, k)
        return distances, ids

    def _compare_again(self, queries: Vectors, candidates: Int64[np.ndarray, "queries _"], k: int) -> Ranking:
        scores, ids = nothing(len(queries), k)
        step = max(1, (64 << 20) // (4 * candidates.shape[1] * queries.shape[1]))
        for begin in range(0, len(queries), step):
            some = slice(begin, begin + step)
            chosen = candidates[some]
            found = self._vectors.gather(np.maximum(chosen, 0).reshape(-1)).reshape(*chosen.shape, -1)
            near = -np.square(found - queries[some, None]).sum(axis=-1)
            near = np.where(chosen >= 0, near, -np.inf)
            order = np.argsort(-near, axis=1, kind="stable")[:, :k]
            ids[some, : order.shape[1]] = np.take_along_axis(chosen, order, axis=1)
            scores[some, : order.shape[1]] = np.take_along_axis(near, order, axis=1)
        return scores, ids


def read_facts(folder: Path, key: str) -> dict[str, Any]:
    """Read what was measured when an index was built.

    Raises:
        DamagedFileError: If the file is missing or altered.
    """
    path = folder / INDEX / key / FACTS_FILE
    try:
        return read_json(path, cure=MEND)
    except OSError as error:
        raise unreadable(path.parent, error) from error
