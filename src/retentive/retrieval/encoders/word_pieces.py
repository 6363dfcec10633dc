"""The words of a long document, read in pieces: memory is that of a piece, whatever the length of the document."""

import codecs
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
from jaxtyping import Int64

from retentive.retrieval.encoders.words import Words
from retentive.text.pieces import PIECE
from retentive.text.tokenizer import character_bytes

_TAIL = 64
"""Characters of a very long word that are read again, so that what goes on with it is known."""

Placed = tuple[list[str], Int64[np.ndarray, "_"]]
"""Keys of words, and the byte of the document at which each begins."""


def words_in_pieces(content: Iterable[bytes], split: Callable[[str], Words]) -> Iterator[Placed]:
    """The words of a document.

    A piece is cut before its last word, where a splitter that looks at one word after the other starts anew. A word
    that is longer than a piece counts where it begins, by its beginning, which is all that a key holds.

    Args:
        content: UTF-8 of the document, in parts that may end inside of a character.
        split: Gives the words of a text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    text, place, inside = "", 0, False
    for part in chain(content, (None,)):
        text += decoder.decode(b"" if part is None else part, part is None)
        if part is not None and len(text) < PIECE:
            continue
        words = split(text)
        skipped = words.begins.count(0) if inside else 0
        if part is None:
            cut, count, inside = len(text), len(words), False
        else:
            cut, count, inside = _cut(text, words, skipped)
        if count > skipped:
            bytes_of = character_bytes(text)
            yield words.keys[skipped:count], bytes_of[np.array(words.begins[skipped:count])] + place
        place += len(text[:cut].encode("utf-8"))
        text = text[cut:]


def _cut(text: str, words: Words, skipped: int) -> tuple[int, int, bool]:
    """Where a piece ends, how many of its words are whole, and whether the next piece begins inside of a word."""
    if len(words) == 0:
        # Neither a word nor a part of one: all but what may be the beginning of one.
        return max(len(text) - _TAIL, 0), 0, False
    last = words.begins[-1]
    count = words.begins.index(last)
    if last > 0 or count > 0:
        return last, count, False
    if skipped == 0 and len(text) < 2 * PIECE:  # one word: it may end soon
        return 0, 0, False
    return len(text) - _TAIL, len(words), True
