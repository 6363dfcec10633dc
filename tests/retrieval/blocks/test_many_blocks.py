"""Ids stay with their chunks above 100,000 blocks, where names that are sorted as text would go out of order."""

import numpy as np

from retentive.retrieval import Datastore
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.blocks.vectors import VectorRows
from retrieval.texts import HashedWords, make_documents

BLOCKS = 100_003


def test_ids_of_a_hundred_thousand_blocks_are_those_of_their_text_and_vectors(tmp_path):
    # Few files, each listed many times: what is read back is decided by the list alone.
    documents = [document for document in make_documents(12) if document[1]][:9]
    few = Datastore.build(documents, tmp_path / "s", chunk_size=16, block_bytes=1, encoder=HashedWords())
    blocks = few.corpus.blocks
    assert len(blocks) == 9
    assert len({block.rows for block in blocks}) > 3
    order = np.random.default_rng(0).integers(0, len(blocks), BLOCKS)
    many = Corpus(tmp_path / "s", [blocks[number] for number in order], 16, ())
    vectors = few.searcher._vectors[1]
    rows = VectorRows(tmp_path / "s", [vectors.keys[one] for one in order], [blocks[one].rows for one in order], 16)
    assert many.num_chunks == len(rows) == sum(blocks[number].rows for number in order)
    sizes = np.array([block.rows for block in blocks])[order]
    block_of = np.repeat(np.arange(BLOCKS), sizes)
    place_in = np.arange(many.num_chunks) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    ids = np.random.default_rng(1).integers(0, many.num_chunks, 4000)
    ids = np.append(ids, [0, many.num_chunks - 1])
    same = few.corpus.first_chunks[order[block_of[ids]]] + place_in[ids]
    np.testing.assert_array_equal(many.tokens(ids), few.corpus.tokens(same))
    np.testing.assert_array_equal(rows.gather(ids), vectors.gather(same))
    np.testing.assert_array_equal(many.documents(ids), block_of[ids])  # a document a block
    follows = many.continuations(ids)
    np.testing.assert_array_equal(follows >= 0, few.corpus.continuations(same) >= 0)
