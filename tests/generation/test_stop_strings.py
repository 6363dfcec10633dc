"""Stop strings in a text that comes in pieces, and in one that a saved state cuts."""

from hypothesis import given
from hypothesis import strategies as st

from retentive.generation.stop_strings import TextUntil
from retentive.text.byte_tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
TEXT = st.text(alphabet="ab\u00e9", min_size=1, max_size=30)


@given(TEXT, st.lists(st.text(alphabet="ab\u00e9", min_size=1, max_size=5), max_size=3), st.data())
def test_a_text_that_is_cut_anywhere_ends_where_the_whole_one_does(text: str, stops: list[str], data: st.DataObject):
    tokens = TOKENIZER.encode(text)
    whole = TextUntil(TOKENIZER, stops)
    until = "".join(map(whole.push, tokens)) + whole.finish()
    cut = data.draw(st.integers(0, len(tokens)))
    first = TextUntil(TOKENIZER, stops)
    given_first = "".join(map(first.push, tokens[:cut])) + first.held
    if first.has_ended:
        assert given_first == until
        return
    assert given_first == bytes(tokens[:cut]).decode("utf-8", "ignore")
    again = TextUntil(TOKENIZER, stops, first.metadata)
    rest = "".join(map(again.push, tokens[cut:])) + again.finish()
    # The begin of a stop string that was given cannot be taken back.
    assert given_first + rest == text[: max(len(until), len(given_first))]
    assert again.has_ended == whole.has_ended


def test_what_was_held_back_for_other_stop_strings_is_not_given_twice():
    first = TextUntil(TOKENIZER, ["ab!"])
    assert "".join(map(first.push, TOKENIZER.encode("xab"))) == "x"
    for stops, rest in (([], "b!"), (["b"], ""), (["bb"], ""), (["bb", "q"], "")):
        again = TextUntil(TOKENIZER, stops, first.metadata)
        assert "".join(map(again.push, TOKENIZER.encode("b!"))) == rest
