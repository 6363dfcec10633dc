"""Text out: sampling, stopping and the streaming loop."""

from retentive.checkpoints.states import GenerationState
from retentive.generation.drafts.prompt_lookup import PromptLookup
from retentive.generation.generator import GenerationResult, TokenStream, generate, stream
from retentive.generation.logprobs import TokenLogprobs
from retentive.generation.neighbours.retrieval import OwnNeighbours, ReadNeighbours, Retrieval, StoreRetriever
from retentive.generation.prefixes import Prefix, PrefixCache
from retentive.generation.requests import Request, RequestBatch, RequestProgress, RequestStep
from retentive.generation.sampling import Sampling

__all__ = [
    "GenerationResult",
    "GenerationState",
    "OwnNeighbours",
    "Prefix",
    "PrefixCache",
    "PromptLookup",
    "ReadNeighbours",
    "Request",
    "RequestBatch",
    "RequestProgress",
    "RequestStep",
    "Retrieval",
    "Sampling",
    "StoreRetriever",
    "TokenLogprobs",
    "TokenStream",
    "generate",
    "stream",
]
