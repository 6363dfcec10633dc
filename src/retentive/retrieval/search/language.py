"""The query language: plain words, ``"a phrase"``, ``-word``, ``-"a phrase"`` and conditions such as ``year>=1999``.

Every text is a query. What does not look like an operator is plain words, and so is a condition on a column that no
document has, so that ``http://example.org`` and ``Note: this`` are words.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from retentive.retrieval.search.where import CONDITION, Condition, written_condition

_HEBREW = "[\u0591-\u05f2]"
_INSIDE = rf'(?<={_HEBREW})"(?={_HEBREW})'
"""A quotation mark in a Hebrew word, as most people type it in acronyms."""

_PHRASE = rf'(?<!\d)(?!{_INSIDE})"(?P<phrase>(?:[^"]|{_INSIDE})+)"'
_PART = re.compile(rf"(?P<minus>(?<!\S)-)?{_PHRASE}|(?<!\S)(?:-(?P<without>\w\S*)|{CONDITION.pattern})")


@dataclass(frozen=True, slots=True)
class ParsedQuery:
    """What a query asks for.

    Attributes:
        text: What is ranked: plain words, and those of phrases.
        phrases: Words that must follow one another in every answer.
        without: Words or phrases that no answer may have.
        where: Conditions on the document.
    """

    text: str
    phrases: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()


def parse_query(text: str, columns: Collection[str]) -> ParsedQuery:
    """Read a query.

    Args:
        text: Any text.
        columns: Names of the columns that documents have.
    """
    plain: list[str] = []
    phrases: list[str] = []
    without: list[str] = []
    where: list[Condition] = []
    place = 0
    for part in _PART.finditer(text):
        if part["column"] is not None and part["column"] not in columns:
            continue
        plain.append(text[place : part.start()])
        place = part.end()
        if part["column"] is not None:
            where.append(written_condition(part))
        elif part["without"] is not None or part["minus"] is not None:
            without.append(part["without"] or part["phrase"])
        else:
            plain.append(part["phrase"])
            phrases.append(part["phrase"])
    plain.append(text[place:])
    return ParsedQuery(" ".join(" ".join(plain).split()), tuple(phrases), tuple(without), tuple(where))
