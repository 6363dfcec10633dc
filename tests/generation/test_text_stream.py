"""Streamed text is the decoded text, in whole characters."""

from hypothesis import given
from hypothesis import strategies as st

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
