"""Words of a text, and the keys by which they are compared.

Words are those of Unicode's text segmentation (UAX #29), so that marks stay with their letters. One tailoring of it,
which the annex foresees: full stops, commas, colons, semicolons and apostrophes part words, so that ``path`` finds
``os.path``; so do the letters that look like apostrophes, for most writers type one of those. In Hebrew apostrophes and
quotation marks are parts of words. Of scripts that are written without spaces, each character is a word.

A key is a word in NFKC with case folded, as most people type it: without invisible characters (soft hyphens), without
the vowel points of Arabic, Hebrew and Syriac, without the accents of Greek, which capitals do not have, and without the
dot that folding leaves over the i of a capital with a dot. A dotless i is an i, whose capital it shares; digits are
ASCII's. Keys, queries and marked words all come from here.
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from retentive.extras import require

LONGEST_WORD = 255
"""Characters of a word that are kept; longer words are rarely language."""

RULES = "UAX29 tailored, NFKC, case folded, pointless 2"
"""Names these rules in fingerprints: another version of them makes other segments."""

_FOREIGN = re.compile(r"[^\x00-\x7f]")
_POINTS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"  # of Hebrew
    "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"  # of Arabic
    "\u0898-\u089f\u08ca-\u08e1\u08e3-\u08ff\u0730-\u074a]"  # and of Syriac
)
_QUOTES = "'\"\u2018\u2019\u201d\u2033"
_OF_HEBREW_WORDS = re.compile(f"[{_QUOTES}\u05f3\u05f4]")
_DOTLESS = "\u0131"


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, in its order.

    Attributes:
        keys: What each word is compared by; it holds no white space.
        begins: The character at which each word begins. One word may have several keys, as a ligature has.
        ends: The character after each word.
    """

    keys: list[str]
    begins: list[int]
    ends: list[int]

    def __len__(self) -> int:
        """Number of words."""
        return len(self.keys)

    def between(self, begin: int, end: int) -> list[str]:
        """Keys of the words that begin at ``begin`` or later, and before ``end``."""
        return self.keys[bisect_left(self.begins, begin) : bisect_left(self.begins, end)]


def split_words(text: str, change: Callable[[str], str] | None = None) -> Words:
    """The words of a text.

    Args:
        text: The text.
        change: Makes another key of a key, as a stemmer does, or an empty one, which leaves the word out.
    """
    keys: list[str] = []
    begins: list[int] = []
    ends: list[int] = []
    place = 0
    # Only lines with characters beyond ASCII need the full rules: no word goes on over the end of a line.
    while (found := _FOREIGN.search(text, place)) is not None:
        begin = text.rfind("\n", place, found.start()) + 1 or place
        end = text.find("\n", found.start())
        end = len(text) if end < 0 else end
        _add_ascii(text[place:begin], place, keys, begins, ends)
        for word in _pattern().finditer(text, begin, end):
            for key in _keys(word.group()):
                keys.append(key if change is not None else key.replace(_DOTLESS, "i"))
                begins.append(word.start())
                ends.append(word.end())
        place = end
    _add_ascii(text[place:] if place else text, place, keys, begins, ends)
    if change is None:
        return Words(keys, begins, ends)
    # Stemmers know the dotless letter.
    changed = [
        (change(key).replace(_DOTLESS, "i"), begin, end) for key, begin, end in zip(keys, begins, ends, strict=True)
    ]
    kept = [one for one in changed if one[0]]
    return Words([one[0] for one in kept], [one[1] for one in kept], [one[2] for one in kept])


_ASCII_WORD = np.zeros(130, dtype=np.bool_)
_ASCII_WORD[[*range(48, 58), *range(65, 91), 95, *range(97, 123)]] = True
_SPACED = "".join(chr(code).lower() if _ASCII_WORD[code] else " " for code in range(128))


def _add_ascii(text: str, place: int, keys: list[str], begins: list[int], ends: list[int]) -> None:
    if not text:
        return
    inside = _ASCII_WORD[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False)) + place
    begins += edges[::2].tolist()
    ends += edges[1::2].tolist()
    found = text.translate(_SPACED).split()
    keys += [key[:LONGEST_WORD] for key in found] if max(map(len, found), default=0) > LONGEST_WORD else found


@lru_cache(maxsize=1 << 16)
def _keys(word: str) -> tuple[str, ...]:
    """The keys of a word: one, unless it stands for several words, or for none."""
    if word.isascii():
        return (word.lower()[:LONGEST_WORD],)
    spelt = unicodedata.normalize("NFKC", _OF_HEBREW_WORDS.sub("", word))
    pointless = _POINTS.sub("", unicodedata.normalize("NFKC", spelt.casefold()))
    plain = unicodedata.normalize("NFKC", _unwritten().sub("", unicodedata.normalize("NFKD", pointless)))
    plain = "".join(str(unicodedata.decimal(one)) if one.isdecimal() else one for one in plain)
    return tuple(found.group()[:LONGEST_WORD] for found in _pattern().finditer(plain))


@cache
def _unwritten() -> Any:
    """In NFKD: what is invisible, accents of Greek, and dots over letters that have one anyway."""
    require("regex", "a datastore")
    import regex

    below = r"[\p{M}--\p{CCC=230}]*"
    dot = rf"(?<=\p{{Soft_Dotted}}{below})\u0307"
    return regex.compile(rf"\p{{Default_Ignorable_Code_Point}}|(?<=\p{{Greek}}\p{{M}}*)\p{{M}}|{dot}", regex.V1)


@cache
def _pattern() -> Any:
    """The rules of UAX #29 as a regular expression (WB4 to WB13b), and single characters of other scripts."""
    require("regex", "a datastore")
    import regex

    # The vowel "am" of Thai and Lao, a character of its own, is two in NFKC, of which the first is a mark.
    am = r"(?:\u0e4d\u0e32|\u0ecd\u0eb2)"
    extend = rf"(?:(?!{am})[\p{{WB=Extend}}\p{{WB=Format}}\p{{WB=ZWJ}}])*"
    hebrew = rf"\p{{WB=Hebrew_Letter}}{extend}"
    letter = rf"[[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]--[\u02bb\u02bc\u055a]]{extend}"
    between = (
        rf"[[\p{{WB=MidLetter}}\p{{WB=MidNumLet}}]--[.:'\u2018\u2019\uff07\uff0e\uff1a\ufe55\ufe52\ufe13]]{extend}"
    )
    letters = rf"(?:{letter})+(?:(?:{between}|(?<={hebrew})[{_QUOTES}](?={hebrew}))(?:{letter})+)*"
    run = rf"(?:{letters}|(?:[\p{{WB=Numeric}}\u2080-\u2089]{extend})+)+|(?:\p{{WB=Katakana}}{extend})+"
    joined = rf"(?:\p{{WB=ExtendNumLet}}{extend})"
    word = rf"{joined}*(?:(?:{run})(?:{joined}+(?:{run}))*{joined}*|{joined}+)"
    known = r"\p{WB=ALetter}\p{WB=Hebrew_Letter}\p{WB=Numeric}\p{WB=Katakana}\p{WB=ExtendNumLet}\p{WB=Extend}"
    single = rf"[[\p{{Alphabetic}}\p{{N}}\p{{NFKC_QC=N}}]--[{known}\s]]{extend}"
    return regex.compile(rf"{word}|{am}|{single}", regex.V1)
