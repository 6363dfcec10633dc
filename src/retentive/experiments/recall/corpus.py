"""The text in which facts are hidden: one part of it is trained on, the other is asked about."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retentive.data.prepare import python_library
from retentive.data.sources.documents import Document
from retentive.data.sources.text_source import SourceConfig, TextSource
from retentive.data.tasks.recurrent_tasks import TextFiller

MOST_BYTES = 64 << 20
"""Of text that is read; the rest of a larger source is left out."""

ASKED_SHARE = 0.1
"""Share of the text, at its end, that is asked about and never trained on."""

RANDOM_SHARE = 0.5
"""Share of the rows of training whose filler is random bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Filler of training and of questions.

    Attributes:
        training: Real text in half of the rows, in the others every byte of text at random: bytes that the text lacks
            are common in other texts, and a memory that never saw them forgets.
        asked: Real text that training does not see.
        digest: SHA-256 of the text.
    """

    training: TextFiller
    asked: TextFiller
    digest: str


def read_corpus(source: Path | None) -> Corpus:
    """Read the text of a folder or a file.

    Args:
        source: As ``retentive prepare`` reads it; None is the sources of Python's standard library.

    Raises:
        ValueError: If there is less than two bytes of text.
    """
    if source is None:
        library = python_library(Path())
        config = SourceConfig(source=library.source, pattern=library.pattern, exclude=library.exclude)
    else:
        config = SourceConfig(source=source)
    text = np.frombuffer(b"".join(_some(TextSource(config))), dtype=np.uint8)
    cut = len(text) - max(1, int(ASKED_SHARE * len(text)))
    if cut < 1:
        raise ValueError(f"corpus must have at least two bytes of text, but {config.source} has {len(text)}.")
    return Corpus(
        training=TextFiller(text[:cut], random_share=RANDOM_SHARE),
        asked=TextFiller(text[cut:]),
        digest=hashlib.sha256(text.tobytes()).hexdigest(),
    )


def _some(source: TextSource) -> Iterator[bytes]:
    left = MOST_BYTES
    for document in source:
        assert isinstance(document, Document)
        content = document.text.encode()[:left]
        yield content
        left -= len(content)
        if not left:
            return
