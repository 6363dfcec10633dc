"""The other strand of DNA."""

import torch

from retentive.nucleotides import NucleotideTokenizer, reverse_complement

DNA = NucleotideTokenizer()


def test_the_other_strand_has_the_complements_from_the_other_end():
    ids = torch.tensor([DNA.encode("AACGN")])
    other = reverse_complement(ids, DNA.complement)
    assert DNA.decode(other[0].tolist()) == "NCGTT"
    assert torch.equal(reverse_complement(other, DNA.complement), ids)
