"""What each stage does with one long document: the same as with a short one, in the same memory."""

import tracemalloc
from itertools import chain

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from retentive.data import tokenizing
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.token_store import TokenStore
from retentive.files import growing_array
from retentive.retrieval import Datastore
from retentive.retrieval.blocks import block, chunk_rows, texts
from retentive.retrieval.blocks.block import check_block, read_block
from retentive.retrieval.blocks.chunking import CHUNKS, group_documents
from retentive.retrieval.encoders import word_pieces
from retentive.retrieval.encoders.lexical import LexicalEncoder
from retentive.retrieval.encoders.words import Words, split_words
from retentive.retrieval.neighbours import signatures
from retentive.retrieval.versions import stages
from retentive.text import pieces
from retentive.text.byte_tokenizer import ByteTokenizer

SMALL = 1 << 12
CONSTANTS = [
    (pieces, "PIECE"),
    (chunk_rows, "PIECE"),
    (word_pieces, "PIECE"),
    (tokenizing, "PIECE"),
    (texts, "_PART_BYTES"),
    (texts, "PAGE_BYTES"),
    (block, "_READ_BYTES"),
    (growing_array, "_HELD_BYTES"),
    (growing_array, "_PART_BYTES"),
]


@pytest.fixture
def in_small_pieces(monkeypatch):
    for place, name in CONSTANTS:
        monkeypatch.setattr(place, name, SMALL)
    for place in (stages, signatures):
        monkeypatch.setattr(place, "_ROWS_AT_ONCE", 256)


def prose(count):
    return "".join(f"owl{number % 600} hunts näher 東京 at night.\n" for number in range(count))


KINDS = {"prose": prose, "hex": lambda count: "4f1e" * 9 * count}


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_of_a_stage_does_not_grow_with_a_document(tmp_path, in_small_pieces, kind):
    task = stages.ChunkTask(tmp_path, ByteTokenizer(), 64)

    def peaks(count):
        text = KINDS[kind](count)
        (group,) = group_documents([("a", text)], {}, 1 << 20, "stop", [])
        key = group.key

        def words():
            for _ in stages.block_words(tmp_path, key, LexicalEncoder()):
                pass

        found = []
        for stage in (lambda: task(group), words, lambda: signatures.SignatureTask(tmp_path, 0.5)(key)):
            texts.forget_blocks()
            tracemalloc.start()
            stage()
            found.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return np.array(found)

    peaks(20)  # imports
    short, long = peaks(1000), peaks(4000)
    # The pages that were read last are kept: 64 of them.
    assert (long < short + 64 * SMALL + 150_000).all(), (short, long)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_document_makes_the_same_store_in_pieces(tmp_path, request, monkeypatch, kind):
    monkeypatch.setattr(texts, "PAGE_BYTES", SMALL)
    documents = [("short", prose(3)), ("long", KINDS[kind](500)), ("last", "owls " * 9)]
    whole = Datastore.build(documents, tmp_path / "whole", chunk_size=32)
    request.getfixturevalue("in_small_pieces")
    again = Datastore.build(documents, tmp_path / "again", chunk_size=32)
    assert [one.checksum for one in again.manifest.chunks] == [one.checksum for one in whole.manifest.chunks]
    assert again.manifest.indexes == whole.manifest.indexes
    content = again.corpus.text(1)
    place = len(content) // 2
    for query in (f'"{content[place : place + 40].split(chr(10))[0].strip()}"', "owl250 night"):
        assert [one.text for one in again.search(query)] == [one.text for one in whole.search(query)]
    for first, count in ((1, 1), (250, 3), (499, 5), (10_000, 2)):
        lines = content.splitlines(keepends=True)
        assert again.corpus.lines(1, first, count) == ("".join(lines[first - 1 : first - 1 + count]), len(lines))
    texts.forget_blocks()
    assert check_block(again.folder, CHUNKS, again.manifest.chunks[0].key)[0] is None
    assert read_block(again.folder, CHUNKS, again.manifest.chunks[0].key).checksum == whole.manifest.chunks[0].checksum


def test_a_long_document_is_prepared_in_pieces(tmp_path, request):
    (tmp_path / "text").mkdir()
    for name, count in (("a", 900), ("b", 2)):
        (tmp_path / "text" / f"{name}.txt").write_text(prose(count))

    def made(name):
        config = PrepareConfig(source=tmp_path / "text", output=tmp_path / name, heldout_fraction=0.0)
        prepare(config)
        return {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.bin")}

    whole = made("whole")
    request.getfixturevalue("in_small_pieces")
    assert made("again") == whole
    assert TokenStore.open(tmp_path / "again").manifest.splits["train"].text_bytes == len(
        (prose(900) + prose(2)).encode()
    )


@settings(max_examples=80, deadline=None)
@given(
    text=st.text(st.sampled_from([*"ab1_.,'\"-   \n\u0301\u05d0\u6771\ufb01é\U0001f989\u0915\u094d"]), max_size=160),
    size=st.integers(2, 30),
    part=st.integers(1, 9),
)
def test_the_words_of_pieces_are_those_of_the_whole(text, size, part):
    def split(text):
        words = split_words(text)
        kept = [number for number, key in enumerate(words.keys) if key != "a"]  # a stop word
        return Words(*([values[number] for number in kept] for values in (words.keys, words.begins, words.ends)))

    whole = split(text)
    assume(all(end - begin < size for begin, end in zip(whole.begins, whole.ends, strict=True)))
    content = text.encode()
    before, word_pieces.PIECE = word_pieces.PIECE, size
    try:
        parts = (content[begin : begin + part] for begin in range(0, len(content), part))
        found = list(word_pieces.words_in_pieces(parts, split))
    finally:
        word_pieces.PIECE = before
    keys = list(chain.from_iterable(keys for keys, _ in found))
    assert keys == whole.keys
    places = [int(place) for _, places in found for place in places]
    assert places == [len(text[:begin].encode()) for begin in whole.begins]
