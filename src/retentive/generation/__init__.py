"""Text out: sampling, stopping and the streaming loop."""

from retentive.checkpoints.states import GenerationState
from retentive.generation.generator import GenerationResult, TokenStream, generate, stream
from retentive.generation.retrieval import OwnNeighbours, Retrieval, StoreRetriever
from retentive.generation.sampling import Sampling

__all__ = [
    "GenerationResult",
    "GenerationState",
    "OwnNeighbours",
    "Retrieval",
    "Sampling",
    "StoreRetriever",
    "TokenStream",
    "generate",
    "stream",
]
