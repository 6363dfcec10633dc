"""Reading a long text in pieces: memory is that of a piece, whatever the length of the text."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from retentive.text.tokenizer import Begins, TokenIds, character_bytes

PIECE = 1 << 18
"""Characters of a text that are read at once; longer texts are read in pieces."""

LONGEST_PIECE = 1 << 20
"""Characters after which a text is cut where no place is sure to be between two words."""

LONGEST_WORD = 256
"""Characters of a word, or of a run of white space, that a BPE learns from in one piece."""

_LONG_RUN = re.compile(rf"\S{{{LONGEST_WORD + 1},}}|\s{{{LONGEST_WORD + 1},}}")

_CONTEXT = 1024
"""Characters that are read on both sides of a cut, so that the tokens beside it are those of the whole text."""

_COMPARED = 8
"""Tokens on both sides of a cut that must be the same in both pieces."""

PARTED_AT_SPACES = re.compile("[^\u2581\u0120 ][\u2581\u0120 ]")
"""Found in tokens that have a space after something else; without such tokens a text may be cut before its spaces."""


def pieces_of(text: str) -> Iterator[str]:
    """The text in pieces of `PIECE` characters."""
    if len(text) <= PIECE:
        yield text
        return
    for begin in range(0, len(text), PIECE):
        yield text[begin : begin + PIECE]


def utf8_pieces(text: str) -> Iterator[bytes]:
    """The UTF-8 of a text in pieces.

    Raises:
        UnicodeEncodeError: If the text has half a surrogate pair; ``start`` is its place in the whole text.
    """
    begin = 0
    for piece in pieces_of(text):
        try:
            yield piece.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UnicodeEncodeError("utf-8", text, begin + error.start, begin + error.end, error.reason) from error
        begin += len(piece)


def parted_long_words(text: str) -> Iterator[str]:
    """The text, cut inside its long words: the time of a merge grows with the longest of them."""
    begin = 0
    for run in _LONG_RUN.finditer(text):
        for cut in range(run.start() + LONGEST_WORD, run.end(), LONGEST_WORD):
            yield text[begin:cut]
            begin = cut
    if begin < len(text):
        yield text[begin:]


@dataclass(frozen=True, slots=True)
class _Read:
    """The tokens of a part of a text.

    Attributes:
        ids: Their ids.
        starts: The character of the text at which each begins, never falling.
        words: Number of the word that each is of.
        first: Character at which the part begins.
        last: Character after its end.
    """

    ids: TokenIds
    starts: np.ndarray
    words: np.ndarray
    first: int
    last: int


def encode_in_pieces(
    encode: Callable[[str], Any], text: str, *, parted_at_spaces: bool
) -> Iterator[tuple[TokenIds, Begins]]:
    """Token ids of a text with the byte at which each begins, in pieces.

    Both pieces beside a cut are read with some of the text of the other one. A cut stands between two words in both,
    and the tokens beside it are the same in both. What stands between two words does not change the words around it, so
    the ids are those of the whole text. A word of more than `LONGEST_PIECE` characters is cut all the same: merging it
    would take a hundred times its memory.

    Args:
        encode: Gives an ``Encoding`` of the ``tokenizers`` library.
        text: The text.
        parted_at_spaces: Whether no token of the vocabulary holds a space after something else, so that a space after
            something else may be cut before, though the whole text counts as one word.
    """
    byte = character = 0
    for ids, starts in _tokens(encode, text, parted_at_spaces):
        if len(ids):
            end = int(starts[-1]) + 1
            own = text[character:end]
            begins = byte + character_bytes(own)[starts - character]
            byte, character = byte + len(own.encode("utf-8")), end
            # The last token may have begun before the piece, inside of a character that several tokens share.
            yield ids, begins


def _tokens(encode: Callable[[str], Any], text: str, parted_at_spaces: bool) -> Iterator[tuple[TokenIds, np.ndarray]]:
    def read(begin: int, end: int) -> _Read:
        first, last = max(0, begin), min(len(text), end)
        found = encode(text[first:last])
        starts = np.array([start for start, _ in found.offsets], dtype=np.int64) + first
        words = np.array([-1 if word is None else word for word in found.word_ids], dtype=np.int64)
        ids = np.asarray(found.ids, dtype=np.uint32)
        return _Read(ids, np.maximum.accumulate(starts) if len(starts) else starts, words, first, last)

    size, done = PIECE, 0
    held = read(0, size + _CONTEXT)
    while held.last < len(text):
        for place in _cuts(held, text, parted_at_spaces, done):
            cut = int(held.starts[place])
            following = read(cut - _CONTEXT, cut + PIECE + _CONTEXT)
            again = _same_place(held, place, following)
            if again is not None:
                yield held.ids[done:place], held.starts[done:place]
                held, done, size = following, again, PIECE
                break
        else:
            size *= 2
            begin = int(held.starts[done]) if done < len(held.starts) else held.first
            if size > LONGEST_PIECE:
                yield held.ids[done:], held.starts[done:]
                held, done, size = read(held.last, held.last + PIECE + _CONTEXT), 0, PIECE
                continue
            longer = read(held.first, begin + size + _CONTEXT)
            held = longer
    yield held.ids[done:], held.starts[done:]


def _cuts(held: _Read, text: str, parted_at_spaces: bool, done: int) -> Iterator[int]:
    """Tokens before which the text may be cut, the last ones first, but for those near the end of what was read."""
    last = int(np.searchsorted(held.starts, held.last - _CONTEXT, side="right"))
    inner = np.arange(done + 1, last)
    between = held.starts[inner] > held.starts[inner - 1]
    found = inner[between & (held.words[inner] != held.words[inner - 1])]
    if not len(found) and parted_at_spaces:
        places = inner[between]
        found = np.array(
            [one for one in places.tolist() if _begins_with_space(text, int(held.starts[one]))], dtype=np.int64
        )
    yield from found[:-5:-1].tolist()


def _begins_with_space(text: str, place: int) -> bool:
    return text[place] == " " and text[place - 1] not in " \u2581\u0120"


def _same_place(held: _Read, place: int, following: _Read) -> int | None:
    """The number that a token has in the piece that follows; ``None`` if the tokens around it are others there."""
    again = int(np.searchsorted(following.starts, held.starts[place]))
    if again >= len(following.ids) or following.starts[again] != held.starts[place]:
        return None
    if again and held.words[place] != held.words[place - 1] and following.words[again] == following.words[again - 1]:
        return None
    # The beginning of what was read again may be the middle of a word.
    surely = int(np.searchsorted(following.starts, following.first + _CONTEXT // 2)) if following.first else 0
    before = min(_COMPARED, place, max(again - surely, 0))
    after = min(_COMPARED, len(held.ids) - place, len(following.ids) - again)
    mine, other = slice(place - before, place + after), slice(again - before, again + after)
    same = np.array_equal(held.ids[mine], following.ids[other])
    return again if same and np.array_equal(held.starts[mine], following.starts[other]) else None
