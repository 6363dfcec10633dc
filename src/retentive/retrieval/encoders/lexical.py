"""Words for BM25 (Robertson et al. 1994): no download, no training.

Doostmohammadi et al. (2023, arXiv:2305.16243) find that lexical overlap predicts best how much a model gains from its
neighbours, so this is the default.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retentive.retrieval.encoders.protocol import WordCounts

# Scripts without spaces between words: each character counts as a word, else a sentence would be one word.
_SINGLE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{_SINGLE}]|[^\W{_SINGLE}]+")
"""A word: letters, digits and underscores, or one character of a script that is written without spaces."""

LONGEST_WORD = 255
"""Characters of a word that are kept; longer words are rarely language."""


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [word[:LONGEST_WORD] for word in WORD.findall(text.lower())]


class LexicalEncoder:
    """Words and how often they occur, in any order."""

    @classmethod
    def make(cls, model: str | Path | None = None, **options: Any) -> "LexicalEncoder":
        """Make an encoder by name; it has no model and no options.

        Raises:
            ValueError: If there is a model or an option.
        """
        if options:
            raise ValueError(f"encoder lexical has no options, but was given {', '.join(sorted(options))}.")
        if model is not None:
            raise ValueError(f"encoder lexical has no model, but model is {str(model)!r}: take encoder=dense.")
        return cls()

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "LexicalEncoder":
        """Make the encoder of a manifest."""
        return cls()

    def settings(self) -> dict[str, Any]:
        """Its kind; it has no options."""
        return {"kind": "lexical"}

    def fingerprint(self) -> str:
        """The same for every lexical encoder of this version."""
        return hashlib.sha256(f"retentive words 1 {WORD.pattern} {LONGEST_WORD}".encode()).hexdigest()

    def count_words(self, texts: Sequence[str]) -> list[WordCounts]:
        """The words of each text, in the order of their first occurrence."""
        return [dict(Counter(split_words(text))) for text in texts]
