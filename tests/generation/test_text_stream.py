"""Streamed text is the decoded text, in whole characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retentive.errors import DamagedFileError
from retentive.generation.text_stream import TextStream
from retentive.text.byte_tokenizer import ByteTokenizer


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_streamed_text_is_the_text(text: str):
    stream = TextStream(ByteTokenizer())
    pieces = [stream.push(token) for token in ByteTokenizer().encode(text)]
    assert "".join(pieces) + stream.finish() == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


def test_an_unfinished_character_is_shown_as_such_at_the_end():
    tokens = ByteTokenizer().encode("aé")[:-1]
    stream = TextStream(ByteTokenizer())
    assert [stream.push(token) for token in tokens] == ["a", ""]
    assert stream.finish() == "\ufffd"


def test_end_of_text_is_nothing():
    stream = TextStream(ByteTokenizer())
    assert stream.push(ByteTokenizer().end_of_text) == ""


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1), st.data())
def test_a_text_that_is_cut_anywhere_goes_on_from_the_metadata(text: str, data: st.DataObject):
    tokens = ByteTokenizer().encode(text)
    cut = data.draw(st.integers(0, len(tokens)))
    first = TextStream(ByteTokenizer())
    said = "".join(map(first.push, tokens[:cut]))
    again = TextStream(ByteTokenizer(), first.metadata)
    assert again.pending == first.pending
    assert said + "".join(map(again.push, tokens[cut:])) == text


@pytest.mark.parametrize("pending", ["c3a9", "x", "41", "ff"])
def test_metadata_with_other_bytes_than_pending_ones_is_refused(pending: str):
    with pytest.raises(DamagedFileError, match="must be the begin of one character in hexadecimal digits, but is"):
        TextStream(ByteTokenizer(), {"pending_bytes": pending})
    assert TextStream(ByteTokenizer(), {"mine": "x"}).pending == b""
