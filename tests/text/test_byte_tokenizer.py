import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import Tokenizer, encode_batch, token_byte_lengths

TOKENIZER = ByteTokenizer()


@given(st.text())
def test_decoding_gives_the_text_back(text):
    ids = TOKENIZER.encode(text)
    assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode([*ids, TOKENIZER.end_of_text]) == text


@given(st.lists(st.text(), max_size=4))
def test_many_at_once_are_as_one_by_one(texts):
    found = encode_batch(TOKENIZER, texts)
    assert [ids.tolist() for ids in found] == [TOKENIZER.encode(text) for text in texts]
    assert all(ids.dtype == np.uint32 for ids in found)


def test_it_is_a_tokenizer():
    assert isinstance(TOKENIZER, Tokenizer)
    assert (TOKENIZER.vocab_size, TOKENIZER.end_of_text) == (257, 256)


def test_half_a_character_is_shown_as_such():
    assert TOKENIZER.decode(TOKENIZER.encode("aé")[:-1]) == "a\ufffd"


def test_special_strings_stay_text():
    assert TOKENIZER.end_of_text not in TOKENIZER.encode("<|endoftext|></s>")


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(ValueError, match=r"half a surrogate pair \(U\+D800 at character 2\)"):
        TOKENIZER.encode("ab\ud800")


@pytest.mark.parametrize("token", [-1, 257])
def test_ids_outside_the_vocabulary_are_refused(token):
    with pytest.raises(ValueError, match=f"from 0 to 256, but one is {token}"):
        TOKENIZER.decode([65, token])
    with pytest.raises(ValueError, match=f"from 0 to 256, but one is {token}"):
        TOKENIZER.token_bytes(token)


def test_every_token_has_one_byte_and_the_end_none():
    assert b"".join(map(TOKENIZER.token_bytes, range(256))) == bytes(range(256))
    assert token_byte_lengths(TOKENIZER).tolist() == [1] * 256 + [0]


def test_it_is_read_back(tmp_path):
    TOKENIZER.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert isinstance(loaded, ByteTokenizer)
    assert loaded.fingerprint() == TOKENIZER.fingerprint()
