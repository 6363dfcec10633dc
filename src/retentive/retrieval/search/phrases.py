"""Finding the chunks in which a phrase begins: words that follow one another in a document."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.encoders.protocol import WordEncoder
from retentive.retrieval.encoders.word_pieces import words_in_pieces
from retentive.retrieval.encoders.words import split_words
from retentive.retrieval.index.lexical_index import LexicalIndex
from retentive.retrieval.search.chosen_chunks import ChosenChunks, Mask

_RARE = 0.1
"""Share of chunks up to which it is worth while to look up all that have a word."""


def chunks_with_phrase(
    corpus: Corpus, encoder: WordEncoder | None, index: LexicalIndex | None, phrase: Sequence[str]
) -> ChosenChunks:
    """The chunks in which a phrase begins.

    Where there is an index of words, one word is looked up there, and of more words only documents that have all those
    that are rare are read. A document is read when one of its chunks is asked for, so that of a phrase of common words
    those are read whose chunks are best.

    Args:
        corpus: The corpus.
        encoder: Splits text into words; ``None`` takes plain words.
        index: Knows which chunks have a word.
        phrase: Keys of the words.
    """
    if index is not None and len(phrase) == 1:
        return ChosenChunks(chunks_with_word(corpus, index, phrase[0]))
    mask = np.ones(corpus.num_chunks, dtype=np.bool_)
    documents = corpus.documents(np.arange(corpus.num_chunks))
    for place, key in enumerate(dict.fromkeys(phrase)):
        if index is not None and index.count(key) <= _RARE * corpus.num_chunks:
            having = chunks_with_word(corpus, index, key)
            mask &= having if place == 0 else np.isin(documents, documents[having])
    return ChosenChunks(mask, (_PhraseIn(corpus, encoder, phrase),))


def chunks_with_word(corpus: Corpus, index: LexicalIndex, key: str) -> Mask:
    """Whether each chunk has a word."""
    found = np.zeros(corpus.num_chunks, dtype=np.bool_)
    (ids,) = index.search([{key: 1}], max(index.count(key), 1))[1]
    found[ids[ids >= 0]] = True
    return found


class _PhraseIn:
    """Whether a phrase begins in chunks; their documents are read when they are first asked for."""

    def __init__(self, corpus: Corpus, encoder: WordEncoder | None, phrase: Sequence[str]) -> None:
        self._corpus, self._encoder, self._phrase = corpus, encoder, list(phrase)
        self._begins = np.zeros(corpus.num_chunks, dtype=np.bool_)
        self._read = np.zeros(corpus.num_documents, dtype=np.bool_)

    def __call__(self, ids: Int64[np.ndarray, "_"]) -> Bool[np.ndarray, "_"]:
        for document in np.unique(self._corpus.documents(ids)).tolist():
            if not self._read[document]:
                self._read[document] = True
                self._find_in(document)
        return self._begins[ids]

    def _find_in(self, document: int) -> None:
        phrase, split = self._phrase, split_words if self._encoder is None else self._encoder.split
        chunks = self._corpus.chunks_of(document)
        starts, _ = self._corpus.spans(np.arange(chunks.start, chunks.stop))
        keys, places = list[str](), np.zeros(0, dtype=np.int64)
        for more, where in words_in_pieces(self._corpus.parts(document), split):
            keys, places = [*keys, *more], np.concatenate([places, where])
            firsts = [place for place, key in enumerate(keys) if key == phrase[0]]
            begins = [place for place in firsts if keys[place : place + len(phrase)] == phrase]
            if begins and len(chunks):
                self._begins[chunks.start + np.searchsorted(starts, places[begins], side="right") - 1] = True
            # A phrase may go on in the next piece.
            rest = max(len(keys) - len(phrase) + 1, 0)
            keys, places = keys[rest:], places[rest:]
