"""Which documents are measured, and that a limit is always told."""

from pathlib import Path

import pytest

from evaluation.stores import write_store
from retentive.data.token_store import TokenStore
from retentive.evaluation.measures.documents import select_documents
from retentive.text.byte_tokenizer import ByteTokenizer


def test_without_a_limit_all_documents_are_taken(byte_store: TokenStore):
    documents = select_documents(byte_store)
    held = byte_store.manifest.splits["heldout"]
    assert documents.numbers.tolist() == list(range(held.documents))
    assert documents.coverage.is_whole
    assert documents.coverage.text_bytes == held.text_bytes
    assert str(documents.coverage) == f"all 6 documents of 'heldout' ({held.text_bytes} bytes)"


def test_texts_are_without_end_of_text(store: TokenStore):
    documents = select_documents(store)
    for number, length in zip(documents.numbers.tolist(), documents.lengths.tolist(), strict=True):
        text = documents.text(number)
        assert len(text) == length
        assert store.tokenizer.end_of_text not in text
    assert store.tokenizer.decode(documents.text(2).tolist()) == "naïve café, 日本語のテキスト"


def test_a_limit_of_documents_is_told(byte_store: TokenStore):
    documents = select_documents(byte_store, max_documents=2)
    assert len(documents.numbers) == 2
    assert not documents.coverage.is_whole
    assert str(documents.coverage).startswith("a sample of 2 of 6 documents of 'heldout' (")
    assert documents.numbers.tolist() == select_documents(byte_store, max_documents=2).numbers.tolist()


@pytest.mark.parametrize("limit", [1, 2, 40, 43, 90, 10_000])
def test_a_limit_of_bytes_is_kept_by_whole_documents(byte_store: TokenStore, limit: int):
    documents = select_documents(byte_store, max_bytes=limit)
    sizes = byte_store.document_bytes("heldout")
    taken = set(documents.numbers.tolist())
    assert documents.coverage.text_bytes == sum(int(sizes[number]) for number in taken) <= limit
    room = limit - documents.coverage.text_bytes
    assert all(int(sizes[number]) > room for number in range(len(sizes)) if number not in taken)


def test_large_documents_can_be_left_out(byte_store: TokenStore):
    sizes = byte_store.document_bytes("heldout").tolist()
    documents = select_documents(byte_store, max_document_bytes=40)
    assert documents.numbers.tolist() == [number for number, size in enumerate(sizes) if size <= 40]
    assert documents.sizes.tolist() == [size for size in sizes if size <= 40]
    assert not documents.coverage.is_whole


def test_both_limits_hold_together(byte_store: TokenStore):
    documents = select_documents(byte_store, max_documents=1, max_bytes=45)
    assert documents.coverage.documents == 1
    assert documents.coverage.text_bytes <= 45


def test_limits_below_one_are_refused(byte_store: TokenStore):
    with pytest.raises(ValueError, match="max_documents must be at least 1, or None for all, but is 0"):
        select_documents(byte_store, max_documents=0)
    with pytest.raises(ValueError, match="max_bytes must be at least 1, or None for all, but is -3"):
        select_documents(byte_store, max_bytes=-3)


def test_an_empty_split_is_refused_with_the_cure(empty_store: TokenStore, byte_store: TokenStore):
    with pytest.raises(ValueError, match=r"split 'heldout' of .* has no document: prepare .* heldout_fraction"):
        select_documents(empty_store)
    with pytest.raises(ValueError, match=r"split 'train' of .* has no document: .* evaluate another split"):
        select_documents(byte_store, split="train")


def test_a_limit_below_every_document_is_refused(single_letters: TokenStore, tmp_path: Path):
    assert len(select_documents(single_letters, max_bytes=1).numbers) == 1
    store = write_store(tmp_path / "store", ByteTokenizer(), ["four", "fifty"])
    for name in ("max_bytes", "max_document_bytes"):
        with pytest.raises(ValueError, match=f"{name} must be at least .* the smallest document, 4 bytes, but is 3"):
            select_documents(store, **{name: 3})
