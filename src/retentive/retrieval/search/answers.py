"""Answers as a person or a program reads them: text, where it stands, and what is known of its document."""

from dataclasses import asdict, dataclass
from typing import Any

from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.search.passage import (
    Span,
    Surroundings,
    characters_of,
    hit_of,
    marked,
    sentence_around,
    surroundings,
)

_MOST_BYTES = 1 << 20
"""Bytes of a line that are read at once."""


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


def answer_of(
    corpus: Corpus, encoder: Any, wanted: frozenset[str], chunk: int, score: float, around: Surroundings | None = None
) -> Answer:
    """Cut the answer of a chunk from the text of its document.

    Args:
        corpus: The corpus.
        encoder: Splits text into words; ``None`` takes plain words.
        wanted: Keys of the query's words.
        chunk: Id of the chunk.
        score: Its score.
        around: The chunk with the text around it, if it was read before.
    """
    around = surroundings(corpus, chunk, encoder) if around is None else around
    hit = hit_of(around, wanted)
    begin, end = sentence_around(around.text, hit)
    pairs = zip(around.words.keys, around.words.begins, around.words.ends, strict=True)
    spans = [
        (first - begin, last - begin) for key, first, last in pairs if begin <= first and last <= end and key in wanted
    ]
    matches = tuple(sorted(set(spans)))
    place = hit[0] if matches else begin
    line, column = line_and_column(corpus, around.document, around.byte(place))
    return Answer(
        text=around.text[begin:end],
        document=corpus.document_name(around.document),
        line=line,
        column=column,
        score=score,
        metadata=corpus.metadata(around.document),
        chunk=chunk,
        begin=around.byte(begin),
        end=around.byte(end),
        matches=matches,
    )


def line_and_column(corpus: Corpus, document: int, place: int) -> tuple[int, int]:
    """The line of a byte of a document and its character in the line, both from 1; lines end at a line feed."""
    characters, end, size = 0, place, 256
    while end > 0:
        part = corpus.content(document, end - size, end)
        begin = part.rfind(b"\n") + 1
        characters += characters_of(part[begin:])
        if begin > 0:
            break
        end -= len(part)
        size = min(size * 4, _MOST_BYTES)
    return corpus.line(document, place), characters + 1
