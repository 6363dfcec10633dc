"""DNA read from its other strand, as augmentation."""

import pytest
import torch

from retentive.data.batch import Batch
from retentive.nucleotides import NucleotideTokenizer, reverse_complement, with_random_strands

DNA = NucleotideTokenizer()


def batch_of_bases(rows: int) -> Batch:
    tokens = torch.randint(0, 5, (rows, 12), generator=torch.Generator().manual_seed(0))
    labels = tokens.masked_fill(torch.rand(rows, 12, generator=torch.Generator().manual_seed(1)) < 0.7, -100)
    starts = torch.zeros(rows, 12, dtype=torch.bool)
    starts[:, 0] = True
    return Batch(tokens=tokens, labels=labels, starts=starts)


def test_about_half_of_the_rows_are_turned_with_their_labels():
    batch = batch_of_bases(400)
    turned = with_random_strands(batch, 3, complement=DNA.complement, seed=0)
    assert torch.equal(turned.tokens, with_random_strands(batch, 3, complement=DNA.complement, seed=0).tokens)
    assert not torch.equal(turned.tokens, with_random_strands(batch, 4, complement=DNA.complement, seed=0).tokens)
    other = reverse_complement(batch.tokens, DNA.complement)
    rows = (turned.tokens == other).all(1)
    assert 150 < rows.sum() < 250
    assert torch.equal(turned.tokens[~rows], batch.tokens[~rows])
    # A base that is asked for is asked for on either strand, and is what stands there.
    assert torch.equal((turned.labels != -100)[rows], (batch.labels != -100).flip(1)[rows])
    asked = turned.labels != -100
    assert torch.equal(turned.labels[asked], turned.tokens[asked])
    whole = with_random_strands(batch, 0, complement=DNA.complement, seed=0, share=1.0)
    assert torch.equal(whole.tokens, other)


def test_what_cannot_be_turned_is_refused():
    batch = batch_of_bases(2)
    with pytest.raises(ValueError, match=r"share must be from 0 to 1, but is 1\.5"):
        with_random_strands(batch, 0, complement=DNA.complement, seed=0, share=1.5)
    batch.starts[1, 4] = True
    with pytest.raises(ValueError, match="starts must be True in the first column alone"):
        with_random_strands(batch, 0, complement=DNA.complement, seed=0)
