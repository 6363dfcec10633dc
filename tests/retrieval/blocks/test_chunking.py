import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retentive.data.sources.documents import Document as SourceDocument
from retentive.errors import MismatchError
from retentive.retrieval import Datastore
from retentive.retrieval.blocks.chunk_rows import chunk_group
from retentive.retrieval.blocks.chunking import (
    document_parts,
    group_documents,
    hash_rows,
    padded,
    split_tokens,
)
from retentive.retrieval.passages import Passages, read_tokenizer
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.loading import load_tokenizer
from retentive.text.subword_tokenizer import train_bpe

SETTINGS = {"chunk_size": 4}


def groups_of(documents, block_bytes=1 << 20, on_error="stop", skipped=None):
    return list(group_documents(documents, SETTINGS, block_bytes, on_error, [] if skipped is None else skipped))


def chunked(group, tokenizer, chunk_size):
    with tempfile.TemporaryDirectory() as place:
        made = chunk_group(group, tokenizer, chunk_size, Path(place))
        return {name: array if isinstance(array, np.ndarray) else array.read() for name, array in made.items()}


@given(texts=st.lists(st.text(max_size=40), max_size=6), chunk_size=st.integers(1, 9))
def test_chunks_of_a_document_are_its_tokens(texts, chunk_size):
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    tokenizer = ByteTokenizer()
    (group,) = groups_of([(str(number), text) for number, text in enumerate(texts)]) or [None]
    if group is None:
        return
    arrays = chunked(group, tokenizer, chunk_size)
    rows = padded(arrays["tokens"], arrays["lengths"])
    assert (arrays["lengths"] >= 1).all()
    for number, text in enumerate(texts):
        own = rows[arrays["first_rows"][number] : arrays["first_rows"][number + 1]]
        assert own[own >= 0].tolist() == tokenizer.encode(text)
        # Only the last chunk of a document may be short: all others are full.
        assert (own[:-1] >= 0).all()


def test_no_chunk_is_empty_and_none_holds_end_of_text():
    for length in (0, 1, 3, 4, 5, 8):
        (group,) = groups_of([("a", "x" * length)])
        arrays = chunked(group, ByteTokenizer(), 4)
        assert len(arrays["tokens"]) == -(-length // 4)
        assert not (arrays["tokens"] == ByteTokenizer.end_of_text).any()


def test_special_strings_in_text_stay_text(tmp_path):
    tokenizer = train_bpe(["some <|endoftext|> words [SEP]"] * 3, vocab_size=300)
    text = "before <|endoftext|> after [SEP] end"
    store = Datastore.build([("a", text)], tmp_path / "store", tokenizer=tokenizer, chunk_size=8)
    rows = store.corpus.tokens(np.arange(store.corpus.num_chunks))
    assert tokenizer.end_of_text not in rows
    assert tokenizer.decode(rows[rows >= 0].tolist()) == text


class EndsInText(ByteTokenizer):
    end_of_text = ord("!")


def test_text_that_becomes_end_of_text_is_refused_by_name():
    (group,) = groups_of([("good", "fine"), ("bad/file.txt", "stop!")])
    with pytest.raises(ValueError, match=r"document 'bad/file.txt' has text that the tokenizer turns into"):
        chunked(group, EndsInText(), 4)


def test_groups_close_at_their_size_and_keep_documents_whole():
    documents = [(str(number), "x" * 10) for number in range(7)]
    assert [group.names for group in groups_of(documents, 25)] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert [group.names for group in groups_of([("huge", "x" * 999), *documents[:1]], 25)] == [["huge"], ["0"]]


def test_the_key_of_a_group_depends_on_names_texts_and_settings():
    keys = {
        groups_of([("a", "x")])[0].key,
        groups_of([("b", "x")])[0].key,
        groups_of([("a", "y")])[0].key,
        groups_of([("a", "x"), ("b", "")])[0].key,
        next(group_documents([("a", "x")], {"chunk_size": 5}, 1 << 20, "stop", [])).key,
    }
    assert len(keys) == 5


def test_documents_may_be_tuples_or_have_name_and_text():
    assert document_parts(("a", "b")) == ("a", "b", {})
    assert document_parts(("a", "b", {"year": 1999})) == ("a", "b", {"year": 1999})
    assert document_parts(SourceDocument(name="a", text="b")) == ("a", "b", {})
    for wrong in ("text", ("a", b"bytes"), ("a",), 3):
        with pytest.raises(TypeError, match=r"documents must be \(name, text\) pairs of strings"):
            document_parts(wrong)
    with pytest.raises(TypeError, match=r"metadata of document 'a' must be a dictionary whose keys are strings"):
        document_parts(("a", "b", "c"))
    with pytest.raises(ValueError, match=r"metadata of document 'a' has nan in column 'score'"):
        document_parts(("a", "b", {"score": float("nan")}))


def test_a_document_that_cannot_be_used_stops_or_is_skipped_with_its_name():
    documents = [("a", "fine"), ("b/half.txt", "\ud800"), ("a", "again"), ("c", "fine too")]
    with pytest.raises(ValueError, match=r"'b/half.txt' has half a surrogate pair \(U\+D800 at character 0\)"):
        groups_of(documents)
    skipped: list[str] = []
    (group,) = groups_of(documents, on_error="skip", skipped=skipped)
    assert group.names == ["a", "c"]
    assert "'b/half.txt'" in skipped[0]
    assert "'a' comes twice" in skipped[1]


@given(rows=st.lists(st.lists(st.integers(-1, 300), min_size=3, max_size=3), min_size=1, max_size=30))
def test_equal_rows_have_equal_hashes_and_no_others(rows):
    hashes = hash_rows(np.array(rows, dtype=np.int64)).tolist()
    for row, number in zip(rows, hashes, strict=True):
        assert [one == number for one in hashes] == [one == row for one in rows]


@given(length=st.integers(0, 30), chunk_size=st.integers(1, 8))
def test_split_tokens_loses_nothing(length, chunk_size):
    rows = split_tokens(np.arange(length), chunk_size)
    assert rows.shape == (-(-length // chunk_size), chunk_size)
    assert rows[rows >= 0].tolist() == list(range(length))


def test_a_store_reads_back_the_tokenizer_that_it_keeps(tmp_path):
    text = "naïve <|endoftext|> text\n"
    bpe = train_bpe([text] * 5, vocab_size=280)
    for number, tokenizer in enumerate([ByteTokenizer(), bpe]):
        tokenizer.save(tmp_path / str(number))
        own = read_tokenizer(tmp_path / str(number))
        assert own.fingerprint() == tokenizer.fingerprint()
        assert (own.name, own.vocab_size, own.end_of_text) == (
            tokenizer.name,
            tokenizer.vocab_size,
            tokenizer.end_of_text,
        )
        assert own.encode(text) == tokenizer.encode(text)
        assert own.decode(own.encode(text)) == text
        own.save(tmp_path / f"again {number}")
        assert load_tokenizer(tmp_path / f"again {number}").fingerprint() == tokenizer.fingerprint()
    (tmp_path / "0" / "retentive_tokenizer.json").write_text('{"format_version": 1, "kind": "strange"}')
    with pytest.raises(MismatchError, match=r"of kind 'strange', but this retentive knows .*: pass the tokenizer"):
        read_tokenizer(tmp_path / "0")


def test_texts_of_passages_end_with_their_tokens():
    rows = np.array([[104, 105, -1], [-1, -1, -1], [97, 98, 99]])
    assert Passages(rows, ByteTokenizer()).texts() == ["hi", "", "abc"]
    bpe = train_bpe(["hi abc"] * 3, vocab_size=260)
    ids = np.array([[*bpe.encode("hi"), -1, -1, -1][:3], [bpe.end_of_text, -1, -1]])
    assert Passages(ids, bpe).texts() == [bpe.decode([token for token in row if token >= 0]) for row in ids.tolist()]
