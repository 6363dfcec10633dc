"""Words for BM25 (Robertson et al. 1994): no download, no training.

Doostmohammadi et al. (2023, arXiv:2305.16243) find that lexical overlap predicts best how much a model gains from its
neighbours, so this is the default.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from retentive.extras import require
from retentive.retrieval.encoders.words import LONGEST_WORD, RULES, Words, split_words

STEMMERS = (
    *("arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian"),
    *("norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish"),
)
"""Languages whose words tantivy reduces to stems."""

STOP_WORDS = (
    *("danish", "dutch", "english", "finnish", "french", "german", "hungarian", "italian", "norwegian", "portuguese"),
    *("russian", "spanish", "swedish"),
)
"""Languages whose stop words tantivy knows."""


class LexicalEncoder:
    """Words and how often they occur, in any order.

    Args:
        stem: Language whose words are compared by their stems, so that ``run`` finds ``running``; one of `STEMMERS`.
        stop_words: Language whose most frequent words are left out; one of `STOP_WORDS`.
    """

    def __init__(self, *, stem: str | None = None, stop_words: str | None = None) -> None:
        for name, value, known in (("stem", stem, STEMMERS), ("stop_words", stop_words, STOP_WORDS)):
            if value is not None and value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, but is {value!r}.")
        self.stem = stem
        self.stop_words = stop_words

    @classmethod
    def make(cls, model: str | Path | None = None, **options: Any) -> "LexicalEncoder":
        """Make an encoder by name; it has no model.

        Raises:
            ValueError: If there is a model or an unknown option.
        """
        if unknown := options.keys() - {"stem", "stop_words"}:
            raise ValueError(
                f"encoder lexical has the options stem and stop_words, but was given {', '.join(sorted(unknown))}."
            )
        if model is not None:
            raise ValueError(f"encoder lexical has no model, but model is {str(model)!r}: take encoder=dense.")
        return cls(**options)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "LexicalEncoder":
        """Make the encoder of a manifest."""
        return cls(stem=settings.get("stem"), stop_words=settings.get("stop_words"))

    def settings(self) -> dict[str, Any]:
        """Its kind, and its languages where there are some."""
        languages = {"stem": self.stem, "stop_words": self.stop_words}
        return {"kind": "lexical"} | {name: value for name, value in languages.items() if value is not None}

    def fingerprint(self) -> str:
        """The same for every lexical encoder of these languages."""
        return hashlib.sha256(
            f"retentive words {RULES} {LONGEST_WORD} {self.stem} {self.stop_words}".encode()
        ).hexdigest()

    def split(self, text: str) -> Words:
        """The words of a text; see `split_words`."""
        return split_words(text, _changing(self.stem, self.stop_words))


@lru_cache(maxsize=16)
def _changing(stem: str | None, stop_words: str | None) -> Callable[[str], str] | None:
    """What makes the stem of a key, or nothing of a stop word; ``None`` if keys stay as they are."""
    if stem is None and stop_words is None:
        return None
    require("tantivy", "a lexical index")
    from tantivy import Filter, TextAnalyzerBuilder, Tokenizer

    building = TextAnalyzerBuilder(Tokenizer.raw())
    if stop_words is not None:
        building = building.filter(Filter.stopword(stop_words))
    if stem is not None:
        building = building.filter(Filter.stemmer(stem))
    analyzer = building.build()

    @lru_cache(maxsize=1 << 16)
    def change(key: str) -> str:
        return "".join(analyzer.analyze(key))

    return change
