"""What a search asks of a reranker: how well passages answer a query."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

Judged = Float32[np.ndarray, "passages"]


@runtime_checkable
class Reranker(Protocol):
    """Reads a query beside passages. It is slower than an index, and so judges only the first of its answers."""

    def scores(self, query: str, passages: Sequence[str]) -> Judged:
        """How well each passage answers the query; higher is better.

        A score does not depend on the other passages.
        """
        ...
