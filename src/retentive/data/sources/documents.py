"""Documents, and the problems of files and records that cannot be used."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retentive.data.sources.sniffing import kind_of

HUGE_LINE_BYTES = 1 << 20
_BEGINNING = 4096

ProblemKind = Literal[
    "unreadable",
    "empty",
    "bad_utf8",
    "too_large",
    "huge_line",  # kept
    "bad_json",
    "missing_field",
    "not_text",
    "not_encodable",
    "altered",  # kept
    "copy",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text.

    Attributes:
        name: Path relative to the source, then ``:number`` if a file holds many (line, row or part, from 1).
        text: The text as it stands in the file, line ends included, without a byte order mark at the start of a file.
        metadata: What else is known of it: chosen columns of its record, or a page's title and date.
    """

    name: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem with one file or record.

    Attributes:
        name: As in `Document`.
        kind: Problems are counted by it.
        message: The problem and its cure.
        kept: True if the document is used all the same; False if it is left out.
    """

    name: str
    kind: ProblemKind
    message: str
    kept: bool = False


def text_or_problem(
    content: bytes, name: str, *, limit: int, metadata: Mapping[str, Any] | None = None
) -> Iterator[Document | Problem]:
    """Decode one document, or yield the problem with it."""
    if not content:
        yield Problem(name=name, kind="empty", message="has no text")
        return
    if len(content) > limit:
        yield too_large(name, f"{len(content):,} bytes", limit)
        return
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        if (kind := kind_of(content)) is not None:
            cure = "convert it to UTF-8, or exclude it" if kind.startswith("UTF") else "exclude it"
            yield Problem(name=name, kind="not_text", message=f"is {kind}, not text: {cure}")
            return
        where = f"byte 0x{content[error.start]:02x} at offset {error.start:,}"
        message = f"is not UTF-8 ({where}): convert it to UTF-8, or exclude it"
        yield Problem(name=name, kind="bad_utf8", message=message)
        return
    if content.count(0, 0, _BEGINNING) * 10 > len(content[:_BEGINNING]):  # UTF-16 of English is half zeros
        kind = kind_of(content[:_BEGINNING]) or "binary data"
        message = f"is {kind} with many zero bytes (UTF-16 has them), not text: convert it to UTF-8, or exclude it"
        yield Problem(name=name, kind="not_text", message=message)
        return
    longest = _longest_line(content)
    if longest > HUGE_LINE_BYTES:
        message = f"has a line of {longest:,} bytes, which is seldom text: kept; exclude the file if it is data"
        yield Problem(name=name, kind="huge_line", message=message, kept=True)
    yield Document(name=name, text=text, metadata=metadata or {})


def too_large(name: str, size: str, limit: int) -> Problem:
    """The problem of a document above the limit."""
    message = f"has {size}, above max_document_bytes={limit:,}: split it (see separator), or raise the limit"
    return Problem(name=name, kind="too_large", message=message)


def _longest_line(content: bytes) -> int:
    if len(content) <= HUGE_LINE_BYTES:  # the usual case needs no search
        return 0
    longest = begin = 0
    while (end := content.find(b"\n", begin)) >= 0:
        longest, begin = max(longest, end - begin), end + 1
    return max(longest, len(content) - begin)
