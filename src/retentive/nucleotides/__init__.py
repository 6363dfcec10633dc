"""DNA: its tokenizer, its two strands, and models whose predictions do not depend on the strand that was written down.

The tokenizer's file stands with the other tokenizers in `retentive.text`, below the models.
"""

from retentive.nucleotides.augmentation import with_random_strands
from retentive.nucleotides.complement import reverse_complement, reverse_complement_logits
from retentive.nucleotides.model import ReverseComplementTransformer, StrandOutput, average_over_strands
from retentive.text.nucleotide_tokenizer import NucleotideTokenizer

__all__ = [
    "NucleotideTokenizer",
    "ReverseComplementTransformer",
    "StrandOutput",
    "average_over_strands",
    "reverse_complement",
    "reverse_complement_logits",
    "with_random_strands",
]
