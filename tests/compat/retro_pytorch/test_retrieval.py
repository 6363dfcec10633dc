"""Chunks, embeddings and nearest neighbours by RETRO-pytorch's names, and what was wrong is fixed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compat.retro_pytorch.small import chunked, paths, text_folder
from retentive.compat.retro_pytorch import retrieval
from retentive.compat.retro_pytorch.retrieval import (
    bert_embed,
    chunks_to_index_and_embed,
    chunks_to_precalculated_knn_,
    text_folder_to_chunks_,
    tokenize,
)
from retentive.errors import DamagedFileError


def test_tokenize_and_embed(bert: Path):
    ids = tokenize(["w1 w2 w3", "w4"])
    assert ids.tolist() == [[101, 105, 106, 107, 102], [101, 108, 102, 0, 0]]
    assert tokenize("w1", add_special_tokens=False).tolist() == [[105]]
    embedded = bert_embed(ids)
    assert embedded.shape == (2, 16)
    torch.testing.assert_close(bert_embed(ids[1:, :3]), embedded[1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(bert_embed(ids, ids != 0), embedded)
    assert torch.equal(bert_embed(ids, True), bert_embed(ids, return_cls_repr=True))
    assert not torch.allclose(bert_embed(ids, True), embedded)


def test_the_name_of_a_special_token_in_a_text_is_text():
    assert 102 not in tokenize("w1 [SEP] w2")[0, :-1]


def test_chunks_are_those_of_the_texts(tmp_path: Path):
    stats = chunked(tmp_path)
    # 30 words, [CLS] and [SEP] are 32 tokens: 4 chunks of 8, no chunk of nothing but padding.
    assert stats == {"chunks": 16, "docs": 4, "seqs": 4}
    chunks = np.memmap(tmp_path / "train.chunks.dat", dtype=np.int32, mode="r", shape=(100, 9))
    first = tokenize((tmp_path / "texts" / "0.txt").read_text())[0].numpy()
    assert np.array_equal(chunks[:4, :-1].reshape(-1), first)
    assert np.array_equal(chunks[:3, -1], first[8::8])
    documents = np.memmap(tmp_path / "train.doc_ids.dat", dtype=np.int32, mode="r", shape=(100,))
    assert documents[:16].tolist() == [number for number in range(4) for _ in range(4)]


def test_texts_that_cannot_be_read_or_are_too_many_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"max_chunks must be at least the chunks of .*, but is 9, full at .*2.txt"):
        chunked(tmp_path, max_chunks=9)
    assert not (tmp_path / "train.chunks.dat").exists()
    (tmp_path / "texts" / "1.txt").write_bytes(b"w1 \xff")
    with pytest.raises(DamagedFileError, match=r"1.txt is not UTF-8 .* at byte 3"):
        text_folder_to_chunks_(folder=tmp_path / "texts", chunk_size=8, seq_len=32, **paths(tmp_path))
    with pytest.raises(FileNotFoundError, match="folder must hold texts"):
        text_folder_to_chunks_(folder=tmp_path / "none", **paths(tmp_path))


def knn(tmp_path: Path, stats: dict[str, int], **changes: Any) -> tuple[Path, Any]:
    arguments: dict[str, Any] = {
        "num_nearest_neighbors": 2,
        "num_chunks": stats["chunks"],
        "chunk_size": 8,
        "chunk_memmap_path": tmp_path / "train.chunks.dat",
        "doc_ids_memmap_path": tmp_path / "train.doc_ids.dat",
        "embed_dim": 16,
        "num_extra_neighbors": 1,
        **changes,
    }
    return chunks_to_precalculated_knn_(**arguments)


def test_neighbours_are_the_nearest_chunks_of_other_documents(tmp_path: Path):
    stats = chunked(tmp_path)
    path, index = knn(tmp_path, stats)
    found = np.memmap(path, dtype=np.int32, mode="r", shape=(16, 2))
    _, vectors = chunks_to_index_and_embed(
        num_chunks=16, chunk_size=8, chunk_memmap_path=tmp_path / "train.chunks.dat", embed_dim=16
    )
    distances = ((vectors[:, None] - vectors[None]) ** 2).sum(-1)
    distances[np.arange(16)[:, None] // 4 == np.arange(16)[None] // 4] = np.inf
    assert np.array_equal(found, distances.argsort(1)[:, :2])
    assert index.search(np.array(vectors[:1]), k=2)[1][0, 0] == 0


def test_neighbours_are_made_again_when_what_they_are_made_of_changed(tmp_path: Path):
    stats = chunked(tmp_path)
    path, _ = knn(tmp_path, stats)
    before = path.stat().st_mtime_ns
    assert knn(tmp_path, stats)[0].stat().st_mtime_ns == before
    more, _ = knn(tmp_path, stats, num_nearest_neighbors=3)
    assert more.stat().st_size == 16 * 3 * 4
    path.write_bytes(bytes(16 * 3 * 4))  # as after a crash half-way
    assert knn(tmp_path, stats, num_nearest_neighbors=3)[0].read_bytes() != bytes(16 * 3 * 4)


def test_documents_without_enough_others_have_none(tmp_path: Path):
    folder = text_folder(tmp_path / "texts", documents=1)
    stats = chunked(tmp_path, folder=folder)
    path, _ = knn(tmp_path, stats)
    assert set(np.fromfile(path, dtype=np.int32)) == {-1}


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    retrieval._load_bert.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"needs transformers .* pip install 'retentive\[retrieval\]'"):
        bert_embed(torch.tensor([[101]]))
