"""Finding the chunks in which a phrase begins: words that follow one another in a document."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.encoders.protocol import WordEncoder
from retentive.retrieval.encoders.words import split_words
from retentive.retrieval.index.lexical_index import LexicalIndex
from retentive.text.tokenizer import character_bytes


def chunks_with_phrase(
    corpus: Corpus, encoder: WordEncoder | None, index: LexicalIndex | None, phrase: Sequence[str]
) -> Bool[np.ndarray, "chunks"]:
    """Whether a phrase begins in each chunk.

    Where there is an index of words, one word is looked up there, and of more words only documents that have all of
    them are read.

    Args:
        corpus: The corpus.
        encoder: Splits text into words; ``None`` takes plain words.
        index: Knows which chunks have a word.
        phrase: Keys of the words.
    """
    found = np.zeros(corpus.num_chunks, dtype=np.bool_)
    documents = np.arange(corpus.num_documents)
    if index is not None:
        for key in set(phrase):
            (ids,) = index.search([{key: 1}], max(corpus.num_chunks, 1))[1]
            documents = np.intersect1d(documents, np.unique(corpus.documents(ids[ids >= 0])))
            if len(phrase) == 1:
                found[ids[ids >= 0]] = True
                return found
    length = len(phrase)
    for document in documents.tolist():
        text = corpus.text(document)
        words = split_words(text) if encoder is None else encoder.split(text)
        firsts = [place for place, key in enumerate(words.keys) if key == phrase[0]]
        begins = [words.begins[place] for place in firsts if words.keys[place : place + length] == list(phrase)]
        chunks = corpus.chunks_of(document)
        if begins and len(chunks):
            starts, _ = corpus.spans(np.arange(chunks.start, chunks.stop))
            places = character_bytes(text)[np.array(begins)]
            found[chunks.start + np.searchsorted(starts, places, side="right") - 1] = True
    return found
