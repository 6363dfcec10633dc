"""Scripts of RETRO-pytorch run by changing the import line, and what was wrong is fixed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from laws.families import enlarged
from retentive.compat.retro_pytorch import RETRO, RETRODataset, TrainingWrapper, retrieval
from retentive.compat.retro_pytorch.optimizer import get_optimizer
from retentive.compat.retro_pytorch.retrieval import (
    bert_embed,
    chunks_to_index_and_embed,
    chunks_to_precalculated_knn_,
    text_folder_to_chunks_,
    tokenize,
)
from retentive.compat.retro_pytorch.training import top_k, top_p
from retentive.errors import DamagedFileError
from without_hook import errors_of

WORDS = [f"w{number}" for number in range(40)]
VOCAB = 104 + len(WORDS) + 3
SIZES: dict[str, Any] = {
    "num_tokens": VOCAB,
    "max_seq_len": 32,
    "enc_dim": 12,
    "enc_depth": 2,
    "dec_depth": 3,
    "dec_cross_attn_layers": (1, 3),
    "heads": 2,
    "dec_dim": 16,
    "dim_head": 8,
    "chunk_size": 8,
}


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with the special ids of the real one."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    names = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join([*names, "[", "]", "sep"]) + "\n")
    transformers.BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def small_bert(bert: Path):
    retrieval.use_bert(bert)
    yield
    retrieval.use_bert("bert-base-cased")


def text_folder(folder: Path, documents: int = 4, words: int = 30) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(documents):
        (folder / f"{number}.txt").write_text(" ".join(generator.choice(WORDS, words)))
    return folder


def paths(folder: Path) -> dict[str, Path]:
    names = {"chunks_memmap_path": "chunks", "seqs_memmap_path": "seq", "doc_ids_memmap_path": "doc_ids"}
    return {argument: folder / f"train.{name}.dat" for argument, name in names.items()}


def chunked(tmp_path: Path, **changes: Any) -> dict[str, int]:
    arguments: dict[str, Any] = {
        "chunk_size": 8,
        "seq_len": 32,
        "max_chunks": 100,
        "max_seqs": 20,
        **paths(tmp_path),
        **changes,
    }
    if "folder" not in changes:
        arguments["folder"] = text_folder(tmp_path / "texts")
    return text_folder_to_chunks_(**arguments)


def made(**changes: Any) -> RETRO:
    torch.manual_seed(0)
    return enlarged(RETRO(**{**SIZES, **changes}).double()).train()


def tokens(*shape: int) -> Tensor:
    return torch.randint(1, VOCAB, shape, generator=torch.Generator().manual_seed(1))


CLOSE = {"rtol": 0, "atol": 1e-10}


@pytest.mark.parametrize("changes", [{}, {"use_deepnet": True}, {"gated_rmsnorm": True, "enc_cross_attn_layers": (2,)}])
def test_a_loss_is_the_mean_over_real_labels_with_neighbours_or_without(changes: dict[str, Any]):
    model = made(**changes)
    seq, retrieved = tokens(2, 33), tokens(2, 4, 2, 16)
    seq[1, 20:] = 0
    for mode in (True, False):
        model.train(mode)
        for neighbours in (retrieved, None):
            loss = model(seq, neighbours, return_loss=True)
            logits = model(seq[:, :-1], neighbours)
            expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), seq[:, 1:].flatten(), ignore_index=0)
            torch.testing.assert_close(loss, expected, **CLOSE)
    loss.backward()


def test_neighbours_reach_what_follows_their_chunk_and_padding_is_nothing():
    model = made().eval()
    seq, retrieved = tokens(1, 32), tokens(1, 4, 2, 16)
    plain = model(seq)
    torch.testing.assert_close(model(seq, torch.zeros_like(retrieved)), plain, **CLOSE)
    changed = (model(seq, retrieved) - plain).abs().amax((0, 2))
    assert (changed[:7] == 0).all()
    assert (changed[7:] > 0).all()
    torch.testing.assert_close(model(seq, retrieved[:, :, 0]), model(seq, retrieved[:, :, :1]), **CLOSE)


def test_places_within_a_chunk_are_told_apart():
    # In their release all rows but the first of a chunk had the same angle.
    model = made(dec_depth=1, dec_cross_attn_layers=(1,)).eval()
    cross = model.model.cross[0].attention
    query = torch.ones(1, 8, 16, dtype=torch.float64)
    rotated = cross.query(query, torch.arange(8)[None] + 7, 16)
    assert len(rotated[0, 0].unique(dim=0)) == 8


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


def save(path: Path, rows: Any) -> Path:
    np.asarray(rows, dtype=np.int32).tofile(path)
    return path


def dataset(tmp_path: Path, chunks: Any, neighbours: Any, begins: Any, **changes: Any) -> RETRODataset:
    arguments: dict[str, Any] = {
        "num_sequences": len(begins),
        "num_chunks": len(chunks),
        "num_neighbors": len(neighbours[0]),
        "chunk_size": 4,
        "seq_len": 12,
        "chunk_memmap_path": save(tmp_path / "chunks.dat", chunks),
        "chunk_nn_memmap_path": save(tmp_path / "knn.dat", neighbours),
        "seq_memmap_path": save(tmp_path / "seq.dat", begins),
        **changes,
    }
    return RETRODataset(**arguments)


CHUNKS = [[11, 12, 13, 14, 15], [15, 16, 102, 0, 0], [21, 22, 23, 24, 102], [102, 0, 0, 0, 0]]


def test_a_sequence_is_one_document_with_the_neighbours_of_its_chunks(tmp_path: Path):
    data = dataset(tmp_path, CHUNKS, [[2], [3], [0], [-1]], [0, 2])
    assert len(data) == 2
    seq, retrieved = data[0]
    assert seq.tolist() == [11, 12, 13, 14, 15, 16, 102, 0, 0, 0, 0, 0, 0]
    # The document of chunk 2 goes on for one more token, its end, though that is the extra token of chunk 2.
    assert retrieved[:, 0].tolist() == [
        [21, 22, 23, 24, 102, 0, 0, 0],
        [102, 0, 0, 0, 0, 0, 0, 0],
        [11, 12, 13, 14, 15, 16, 102, 0],
    ]
    seq, retrieved = data[1]  # its last chunk is beyond the last one of all
    assert seq.tolist() == [21, 22, 23, 24, 102, 0, 0, 0, 0, 0, 0, 0, 0]
    assert retrieved[1:].abs().sum() == 0
    short = dataset(tmp_path, CHUNKS, [[2], [3], [0], [-1]], [0, 2], add_continuations=False)
    assert short[0][1].shape == (3, 1, 4)


def test_files_are_only_read(tmp_path: Path):
    data = dataset(tmp_path, CHUNKS, [[2], [3], [0], [-1]], [0, 2])
    files = sorted(tmp_path.glob("*.dat"))
    before = [path.read_bytes() for path in files]
    for path in files:
        path.chmod(0o444)
    _ = data[0], data[1]
    assert [path.read_bytes() for path in files] == before


def test_files_of_other_sizes_are_named(tmp_path: Path):
    with pytest.raises(DamagedFileError, match=r"knn.dat must hold 4 rows of 3 numbers, but holds 1"):
        dataset(tmp_path, CHUNKS, [[2], [3], [0], [-1]], [0, 2], num_neighbors=3)
    with pytest.raises(FileNotFoundError, match="text_folder_to_chunks_ and chunks_to_precalculated_knn_ make it"):
        dataset(tmp_path, CHUNKS, [[2], [3], [0], [-1]], [0, 2], chunk_memmap_path=tmp_path / "none.dat")


def wrapper(tmp_path: Path, **changes: Any) -> TrainingWrapper:
    folder = tmp_path / "texts"
    return TrainingWrapper(
        retro=RETRO(**SIZES),
        knn=2,
        chunk_size=8,
        documents_path=folder if folder.exists() else text_folder(folder),
        processed_stats_json_path=tmp_path / "processed-stats.json",
        max_chunks=100,
        max_seqs=20,
        **{**paths(tmp_path), "embed_dim": 16, **changes},
    )


def test_a_folder_of_text_becomes_batches_steps_and_text(tmp_path: Path):
    made = wrapper(tmp_path, max_index_memory_usage="100m", current_memory_available="1G")
    seq, retrieved = next(iter(made.get_dataloader(batch_size=2, shuffle=True)))
    assert seq.shape == (2, 33)
    assert retrieved.shape == (2, 4, 2, 16)
    optimizer = made.get_optimizer(lr=3e-3, wd=0.01)
    losses = []
    for _ in range(3):
        loss = made.retro(seq, retrieved, return_loss=True)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    torch.manual_seed(0)
    sampled = made.generate(filter_thres=0.9, temperature=1.0)
    assert sampled[0, 0] == 101
    assert 1 < sampled.shape[1] <= 32
    prompt = tokens(2, 12)
    prompt[0, 3] = 102  # an end in a prompt ends nothing
    for filter_fn in (top_k, top_p):
        sampled = made.generate(prompt, filter_fn=filter_fn)
        assert torch.equal(sampled[:, :12], prompt)
    full = tokens(1, 32)
    assert torch.equal(made.generate(full), full)


def test_what_is_generated_is_what_reading_again_says(tmp_path: Path):
    made = wrapper(tmp_path)
    made.retro.eval()
    prompt = tokens(1, 11)
    text = made.generate(prompt, temperature=0.0)
    chunks = text[0, : text.shape[1] // 8 * 8].view(-1, 8)
    retrieved = made.fetch_neighbours(chunks).clamp_min(0)[None]
    logits = made.retro(text, retrieved)
    assert torch.equal(logits[:, 10:-1].argmax(-1), text[:, 11:])


def test_texts_that_changed_are_prepared_again(tmp_path: Path):
    assert wrapper(tmp_path).stats["docs"] == 4
    (tmp_path / "texts" / "9.txt").write_text(" ".join(WORDS[:20]))
    assert wrapper(tmp_path).stats["docs"] == 5


def test_an_optimizer_has_the_order_of_the_model():
    model = RETRO(**SIZES)
    ordered = [parameter for group in get_optimizer(model.parameters()).param_groups for parameter in group["params"]]
    expected = sorted(model.parameters(), key=lambda parameter: parameter.ndim < 2)
    assert all(one is other for one, other in zip(ordered, expected, strict=True))


def test_nucleus_keeps_the_mass_that_it_is_told_to():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert top_p(logits, thres=0.9).isfinite().sum() == 3
    assert top_k(logits, thres=0.5).isfinite().sum() == 2


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    retrieval._load_bert.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"needs transformers .* pip install 'retentive\[retrieval\]'"):
        bert_embed(torch.tensor([[101]]))


def test_arguments_without_a_meaning_are_refused_by_name(tmp_path: Path):
    home = "retentive.compat.retro_pytorch:RETRO"
    cases = [
        ({"enc_scale_residual": 1.0}, "enc_scale_residual must be None, but is 1.0"),
        ({"dec_scale_residual": 1.0}, "dec_scale_residual must be None, but is 1.0"),
    ]
    found = errors_of([(home, {**SIZES, **changes}) for changes, _ in cases])
    for (changes, message), (error, text) in zip(cases, found, strict=True):
        assert error == "ValueError", changes
        assert message in text, changes
    with pytest.raises(ValueError, match=r"norm_klass must be None, torch.nn.LayerNorm or torch.nn.RMSNorm"):
        made(norm_klass=torch.nn.BatchNorm1d)
    with pytest.raises(ValueError, match="norm_klass means nothing with gated_rmsnorm"):
        made(norm_klass=torch.nn.LayerNorm, gated_rmsnorm=True)
    with pytest.raises(ValueError, match=r"seq must have 1 to max_seq_len = 32 tokens, but has 33"):
        made()(tokens(1, 33))
    with pytest.raises(ValueError, match=r"are of 3; model.ended_chunks"):
        made()(tokens(1, 32), tokens(1, 3, 2, 16))
    with pytest.raises(ValueError, match="chunk_size must be 8, but is 4"):
        TrainingWrapper(retro=RETRO(**SIZES), knn=2, chunk_size=4, documents_path=tmp_path)
    with pytest.raises(ValueError, match=r"num_tokens of retro must be that of BERT, 147, .*, but is 200"):
        TrainingWrapper(retro=RETRO(**{**SIZES, "num_tokens": 200}), knn=2, chunk_size=8, documents_path=tmp_path)
    with pytest.raises(ValueError, match="embed_dim must be the channels of"):
        wrapper(tmp_path, embed_dim=768)
    with pytest.raises(ValueError, match="max_index_memory_usage must be bytes such as '100m'"):
        wrapper(tmp_path, max_index_memory_usage="much")
    with pytest.raises(ValueError, match="current_memory_available must be at least the index"):
        wrapper(tmp_path, current_memory_available="10")


def test_layers_beyond_the_depth_are_absent_and_no_error():
    sizes = {**SIZES, "dec_depth": 4}
    del sizes["dec_cross_attn_layers"]
    assert RETRO(**sizes).model.config.cross_layers == (1, 3)
    assert RETRO(dec_depth=4, num_tokens=VOCAB).model.config.cross_layers == (1, 3)
    given = RETRO(**{**sizes, "dec_cross_attn_layers": (3, 1, 3, 9), "enc_cross_attn_layers": (2, 7)})
    assert given.model.config.cross_layers == (1, 3)
    assert given.model.config.encoder_cross_layers == (2,)
