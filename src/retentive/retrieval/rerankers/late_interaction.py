"""Late interaction: each token of a query looks for its nearest one in a passage."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from retentive.retrieval.blocks.vectors import Vectors
from retentive.retrieval.rerankers.protocol import Judged


@runtime_checkable
class TokenVectorEncoder(Protocol):
    """An encoder that gives a vector for each token, as `DenseEncoder` does."""

    def token_vectors(self, texts: Sequence[str], *, special_tokens: bool = True) -> list[Vectors]:
        """Vectors of the tokens of each text, of length 1, with those of the special tokens around it or without."""
        ...


class LateInteraction:
    """The mean over the query's tokens of the largest cosine with a token of the passage.

    Khattab and Zaharia (2020, arXiv:2004.12832) train an encoder for it. One that was trained for the mean over tokens
    serves too: every token's vector is drawn towards what the text is about.

    Args:
        encoder: The encoder, that of a store as a rule.
    """

    def __init__(self, encoder: TokenVectorEncoder) -> None:
        self.encoder = encoder

    def scores(self, query: str, passages: Sequence[str]) -> Judged:
        """See `Reranker.scores`; from -1 to 1."""
        if len(passages) == 0:
            return np.zeros(0, dtype=np.float32)
        (asked,) = self.encoder.token_vectors([query], special_tokens=False)
        if len(asked) == 0:  # nothing to look for
            return np.zeros(len(passages), dtype=np.float32)
        found = [(asked @ read.T).max(axis=1).mean() for read in self.encoder.token_vectors(passages)]
        return np.array(found, dtype=np.float32)
