"""Text out: sampling, stopping and the streaming loop."""

from retentive.checkpoints.states import GenerationState
from retentive.generation.generator import GenerationResult, TokenStream, generate, stream
from retentive.generation.sampling import Sampling

__all__ = ["GenerationResult", "GenerationState", "Sampling", "TokenStream", "generate", "stream"]
