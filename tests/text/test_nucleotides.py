"""DNA as tokens, and its other strand."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from retentive.data.batch import Batch
from retentive.data.strands import with_random_strands
from retentive.ops.strands import reverse_complement
from retentive.text.loading import load_tokenizer
from retentive.text.nucleotides import NucleotideTokenizer
from retentive.text.tokenizer import encode_batch

DNA = NucleotideTokenizer()


@given(st.text(alphabet="ACGTN"))
def test_sequences_survive(text: str):
    ids = DNA.encode(text)
    assert DNA.decode(ids) == text
    assert b"".join(map(DNA.token_bytes, ids)) == text.encode()
    assert encode_batch(DNA, [text])[0].tolist() == ids


def test_ids_are_the_bases_and_the_end():
    assert DNA.encode("ACGTN") == [0, 1, 2, 3, 4]
    assert DNA.encode("acgtn") == DNA.encode("ACGTN")
    assert (DNA.end_of_text, DNA.vocab_size) == (5, 6)
    assert DNA.token_bytes(5) == b""
    assert DNA.decode([0, 5, 3]) == "AT"


@pytest.mark.parametrize(("text", "found"), [("ACR", "'R' at 2"), ("AC\nG", r"'\\n' at 2"), ("é", "'é' at 0")])
def test_what_is_no_base_is_refused(text: str, found: str):
    with pytest.raises(ValueError, match=f"must be of the letters A, C, G, T, N, but has {found}; remove what is"):
        DNA.encode(text)


def test_the_other_strand_has_the_complements_from_the_other_end():
    ids = torch.tensor([DNA.encode("AACGN")])
    other = reverse_complement(ids, DNA.complement)
    assert DNA.decode(other[0].tolist()) == "NCGTT"
    assert torch.equal(reverse_complement(other, DNA.complement), ids)


def test_a_saved_tokenizer_is_read_back_here_and_elsewhere(tmp_path: Path):
    DNA.save(tmp_path)
    read = load_tokenizer(tmp_path)
    assert isinstance(read, NucleotideTokenizer)
    assert read.fingerprint() == DNA.fingerprint()
    elsewhere = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert elsewhere.encode("GATTACANN", add_special_tokens=False).ids == DNA.encode("GATTACANN")
    assert elsewhere.decode(DNA.encode("GATTACANN")) == "GATTACANN"


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
