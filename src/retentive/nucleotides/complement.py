"""The two strands of DNA: read from one end, a sequence is the complement of what is read from the other."""

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.shapes import Tokens

Complement = tuple[int, ...]
"""For each token id, the id of its complement; applied twice it changes nothing."""


def check_complement(complement: Complement, vocab_size: int) -> None:
    """Validate that ``complement`` maps every id, and that applying it twice changes none.

    Raises:
        ValueError: If ids are missing, or applying it twice changes an id.
    """
    if len(complement) != vocab_size:
        raise ValueError(
            f"complement must name an id for each of vocab_size = {vocab_size} ids, but names {len(complement)}; ids "
            "without a complement are their own."
        )
    wrong = [
        token for token, other in enumerate(complement) if not 0 <= other < vocab_size or complement[other] != token
    ]
    if wrong:
        raise ValueError(
            f"complement must be undone by itself, but of id {wrong[0]} it is {complement[wrong[0]]}, whose complement "
            "is another; pairs of longer tokens (k-mers, BPE) change their borders and have no such map."
        )


def reverse_complement(tokens: Tokens, complement: Complement) -> Tokens:
    """The same bases as read from the other strand: complements, from the last to the first."""
    return torch.tensor(complement, device=tokens.device)[tokens.flip(-1)]


def reverse_complement_logits(
    logits: Float[Tensor, "batch time vocab"], complement: Complement
) -> Float[Tensor, "batch time vocab"]:
    """A prediction for each base, as it stands on the other strand."""
    return logits.flip(1)[..., torch.tensor(complement, device=logits.device)]
