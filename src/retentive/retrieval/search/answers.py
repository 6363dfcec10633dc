"""Answers as a person or a program reads them: text, where it stands, and what is known of its document.

Nothing of a store is imported here, so that asking a server takes no more than this.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

Span = tuple[int, int]
"""Begin and end of a part of a text, in characters."""

_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if not chr(code).isspace()}
"""Characters that would steer a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of a search.

    Attributes:
        text: The sentence or passage around the hit, as it stands in the document.
        document: Name of the document.
        line: Line of the hit: of the first word of the query in the chunk, or of the text where there is none; from 1.
        column: Character of that line, from 1.
        score: Higher is nearer.
        metadata: Columns of the document.
        chunk: Id of the chunk.
        begin: Byte of the document (in UTF-8) at which ``text`` begins.
        end: Byte after it.
        matches: Begin and end of each word of the query in ``text``.
        copies: Other documents whose answer has the same text.
    """

    text: str
    document: str
    line: int
    column: int
    score: float
    metadata: dict[str, Any]
    chunk: int
    begin: int
    end: int
    matches: tuple[Span, ...]
    copies: tuple[str, ...] = ()

    def marked(self, before: str, after: str) -> str:
        """The text with marks around the words of the query."""
        return marked(self.text, self.matches, before, after)

    def as_dict(self) -> dict[str, Any]:
        """The answer as JSON takes it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ShownAnswers:
    """Answers as a command prints them.

    Attributes:
        answers: Best first.
        marks: What stands before and behind each word of the query, as for `answer_lines`.
    """

    answers: list[Answer]
    marks: tuple[str, str]

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        return answer_lines(self.answers, *self.marks) or ["nothing found: no chunk has a word of it"]

    def content(self) -> list[dict[str, Any]]:
        """The answers as JSON takes them."""
        return [answer.as_dict() for answer in self.answers]


def answer_lines(answers: Sequence[Answer], before: str = "", after: str = "") -> list[str]:
    """Answers in lines for the terminal.

    Args:
        answers: Best first.
        before: Stands before each word of the query; without it and ``after``, brackets that no answer has.
        after: Stands behind it.
    """
    marks = (before, after) if before else marks_for([answer.text for answer in answers])
    lines: list[str] = []
    for rank, answer in enumerate(answers, start=1):
        place = f"{answer.document}, line {answer.line}, column {answer.column}"
        lines.append(f"{rank}. {place}, score {answer.score:.2f}".translate(_CONTROL))
        plain = replace(answer, text=answer.text.translate(_CONTROL))
        lines.append("   " + " ".join(plain.marked(*marks).split()))
        if answer.copies:
            shown = ", ".join(answer.copies[:3]) + (", ..." if len(answer.copies) > 3 else "")
            lines.append(f"   the same in {shown}".translate(_CONTROL))
    return lines


def marked(text: str, spans: Sequence[Span], before: str, after: str) -> str:
    """A text with marks around the given parts."""
    pieces: list[str] = []
    end = 0
    for begin, stop in spans:
        pieces += [text[end:begin], before, text[begin:stop], after]
        end = stop
    return "".join([*pieces, text[end:]])


def marks_for(texts: Sequence[str]) -> tuple[str, str]:
    """Brackets that stand in none of the texts, so that a marked word is not taken for a part of them."""
    count = 1
    while any("\u27e6" * count in text or "\u27e7" * count in text for text in texts):
        count += 1
    return "\u27e6" * count, "\u27e7" * count
