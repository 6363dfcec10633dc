"""DNA as tokens."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from retentive.text.loading import load_tokenizer
from retentive.text.nucleotide_tokenizer import NucleotideTokenizer
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


def test_a_saved_tokenizer_is_read_back_here_and_elsewhere(tmp_path: Path):
    DNA.save(tmp_path)
    read = load_tokenizer(tmp_path)
    assert isinstance(read, NucleotideTokenizer)
    assert read.fingerprint() == DNA.fingerprint()
    elsewhere = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert elsewhere.encode("GATTACANN", add_special_tokens=False).ids == DNA.encode("GATTACANN")
    assert elsewhere.decode(DNA.encode("GATTACANN")) == "GATTACANN"
