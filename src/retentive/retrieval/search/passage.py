"""Cutting an answer from the text of its document: the sentence around a hit, in whole words."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.encoders.words import Words, split_words
from retentive.retrieval.search.answers import Answer, Span

LONGEST = 320
"""Characters from the first to the last word of a hit, at most; its sentences may add `AROUND` on each side."""

AROUND = 240
_BYTES_AROUND = 2048
"""Bytes of text that are read on each side of a chunk: enough for a sentence or a long phrase."""

_MOST_BYTES = 1 << 20
"""Bytes that are read at once: of a line, and of a chunk (some tokenizers make one token of a word of any length)."""

_MARGIN = 64
"""Characters of text beyond the longest answer, so that a word which is cut there is in none."""

_SENTENCE_END = re.compile(
    r"[.!?\u2026\u061f\u0964\u06d4][\"')\]\u201d\u2019]*\s+"  # full stops of scripts that write spaces
    r"|[\u3002\uff01\uff1f]+"  # and of those that do not
    r"|\n[ \t\r]*\n\s*"  # an empty line
)
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A chunk with the text around it.

    Attributes:
        document: Number of the document.
        text: Text of the document, from a little before the chunk to a little after it.
        first_byte: Byte of the document at which ``text`` begins.
        begin: Character of ``text`` at which the chunk begins.
        end: Character of ``text`` at which the chunk ends.
        words: The words of ``text``, by the encoder of the store.
    """

    document: int
    text: str
    first_byte: int
    begin: int
    end: int
    words: Words

    @property
    def own(self) -> range:
        """Numbers of the words that begin in the chunk."""
        first, last = np.searchsorted(self.words.begins, [self.begin, self.end]).tolist()
        return range(first, last)

    def byte(self, place: int) -> int:
        """The byte of the document at which a character of ``text`` begins."""
        return self.first_byte + len(self.text[:place].encode("utf-8"))


def surroundings(corpus: Corpus, chunk: int, encoder: Any) -> Surroundings:
    """Read a chunk and the text around it.

    Args:
        corpus: The corpus.
        chunk: Id of the chunk.
        encoder: Splits text into words; ``None`` takes plain words.
    """
    ids = np.array([chunk])
    document = int(corpus.documents(ids)[0])
    begin, end = (int(places[0]) for places in corpus.spans(ids))
    end = min(end, begin + _MOST_BYTES)
    first = max(0, begin - _BYTES_AROUND)
    content = corpus.content(document, first, end + _BYTES_AROUND)
    # A character may be cut at both ends of what was read, and at the ends of the chunk: it counts where it begins.
    cut = next((place for place in range(min(4, len(content))) if content[place] & 0xC0 != 0x80), 0) if first else 0
    text = content[cut:].decode("utf-8", "ignore")
    first += cut
    before = characters_of(content[cut : begin - first + cut])
    inside = characters_of(content[cut : end - first + cut])
    skipped = max(0, before - AROUND - _MARGIN)
    first += len(text[:skipped].encode("utf-8"))
    # A hit ends with the last word that begins in the chunk, or before: base64 and addresses are long words.
    space = _SPACE.search(text, inside)
    last = max(inside + LONGEST, len(text) if space is None else space.start())
    text, before, inside = text[skipped : last + AROUND + _MARGIN], before - skipped, inside - skipped
    words = split_words(text) if encoder is None else encoder.split(text)
    return Surroundings(document, text, first, before, inside, words)


def characters_of(content: bytes) -> int:
    """Characters that begin in some bytes."""
    return int(np.count_nonzero(np.frombuffer(content, dtype=np.uint8) & 0xC0 != 0x80))


def hit_of(around: Surroundings, wanted: frozenset[str]) -> Span:
    """The part of a chunk that has the most different words of a query: the characters of ``text`` where it stands.

    Without a word of the query it is the beginning of the chunk.
    """
    words, own = around.words, around.own
    found = [number for number in own if words.keys[number] in wanted]
    if not found:
        first = words.begins[own.start] if len(own) else around.begin
        last = max((words.ends[number] for number in own if words.ends[number] <= first + LONGEST), default=around.end)
        return first, max(min(last, first + LONGEST), first)
    best, span = 0, (words.begins[found[0]], words.ends[found[0]])
    for place, number in enumerate(found):
        begin = words.begins[number]
        inside = [one for one in found[place : place + 64] if words.ends[one] <= begin + LONGEST] or [number]
        if (different := len({words.keys[one] for one in inside})) > best:
            best, span = different, (begin, words.ends[inside[-1]])
    return span


def sentence_around(text: str, hit: Span) -> Span:
    """The sentences in which a hit begins and ends, at most `AROUND` characters more on each side, in whole words."""
    begin, end = hit
    earliest, latest = max(0, begin - AROUND), min(len(text), end + AROUND)
    stops = [found.end() for found in _SENTENCE_END.finditer(text, earliest, begin)]
    # Without the end of a sentence nearby: the first or last white space, so that no word is cut.
    if not stops and earliest > 0:
        space = _SPACE.search(text, earliest, begin)
        stops = [begin if space is None else space.end()]
    first = stops[-1] if stops else 0
    stop = _SENTENCE_END.search(text, max(end - 1, begin), latest)
    last = latest if stop is None else stop.end()
    if stop is None and latest < len(text):
        spaces = [found.start() for found in _SPACE.finditer(text, end, latest)]
        last = spaces[-1] if spaces else end
    first += len(text[first:begin]) - len(text[first:begin].lstrip())
    return first, end + len(text[end:last].rstrip())


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
