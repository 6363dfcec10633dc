"""A script of RETRO-pytorch runs by changing the import line: batches, steps, text, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch

from compat.retro_pytorch.small import SIZES, WORDS, made, paths, text_folder, tokens
from retentive.compat.retro_pytorch import RETRO, TrainingWrapper
from retentive.compat.retro_pytorch.training import top_k, top_p
from without_hook import errors_of


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


def test_nucleus_keeps_the_mass_that_it_is_told_to():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert top_p(logits, thres=0.9).isfinite().sum() == 3
    assert top_k(logits, thres=0.5).isfinite().sum() == 2


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
