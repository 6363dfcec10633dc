"""Texts with a word that is told and asked for, a memory that learns to carry it, and what is reported."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from retentive.checkpoints import load_model, save_model
from retentive.cli.main import main
from retentive.data.batch import IGNORED
from retentive.experiments.recall.questions import MEMORY, SHUFFLED, ZEROED
from retentive.experiments.recall.report import NO_MEMORY
from retentive.experiments.remember.asking import parts_of
from retentive.experiments.remember.run import RememberConfig, run_remember
from retentive.experiments.remember.texts import SAID, make_facts, training_batch
from retentive.models.registry import build
from retentive.models.transformer import TransformerConfig
from retentive.text.byte_tokenizer import ByteTokenizer

TEXT = "It was the best of times, it was the worst of times. " * 40


def test_a_word_is_told_in_the_first_segment_and_asked_for_at_the_end():
    tokenizer = ByteTokenizer()
    facts = make_facts(tokenizer, TEXT, seed=0)
    assert not set(facts.known) & set(facts.new)
    batch = training_batch(facts, rows=5, segments=3, segment_length=40, random=np.random.default_rng(0))
    assert batch.tokens.shape == (5, 120)
    for row, labels in zip(batch.tokens.tolist(), batch.labels.tolist(), strict=True):
        answer = [label for label in labels if label != IGNORED]
        assert tuple(answer) in facts.known
        first, rest = tokenizer.decode(row[:40]), tokenizer.decode(row[40:])
        assert f"{SAID}{tokenizer.decode(answer)}." in first
        assert rest.endswith(SAID + tokenizer.decode(answer[:-1]))
        assert rest.count(SAID) == 1
        assert labels[-len(answer) :] == answer


@pytest.mark.parametrize(("kind", "rank"), [("associative", 0), ("tokens", 2)])
def test_the_command_trains_asks_and_reports(kind: str, rank: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 16, "tie_embeddings": True}
    backbone = build(TransformerConfig(vocab_size=257, **sizes))
    save_model(backbone, tmp_path / "backbone", ByteTokenizer())
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(TEXT)
    out = tmp_path / "out"
    options = ["--corpus", str(tmp_path / "text"), "--output", str(out), "--segment-length", "40", "--trials", "3"]
    options += ["--num-memory-tokens", "2", "--memory", kind, "--layers", "1", "--lora-rank", str(rank)]
    options += ["--batch-size", "2"]
    main(
        [
            "remember",
            str(tmp_path / "backbone"),
            *options,
            "--segments",
            "[2]",
            "--steps",
            "[2]",
            "--distances",
            "[1,3]",
        ]
    )
    said = capsys.readouterr().out
    assert "in 2 steps" in said
    assert "| new | memory zeroed |" in said
    found = json.loads((out / "remember.json").read_text())
    for rows in found["answers"].values():
        assert {(row["what"], row["length"]) for row in rows} == {
            (what, distance) for what in (MEMORY, ZEROED, SHUFFLED, NO_MEMORY) for distance in (1, 3)
        }
    assert (out / "remember.png").read_bytes().startswith(b"\x89PNG")
    model = load_model(out / "model")
    kept = [torch.equal(model.state_dict()[name], weight) for name, weight in backbone.state_dict().items()]
    assert all(kept) == (rank == 0)
    assert sum(not same for same in kept) == (4 if rank else 0)  # both projections of each mixer
    if kind == "tokens":  # they begin as words of the table, and learn beside LoRA
        assert not torch.isin(model.memory.initial, backbone.decoder.embedding.tokens.weight).any()
    if kind == "associative":  # the last layer's memory has learned, and the first recalls nothing
        first, last = (memory.value_proj.weight for memory in model.associations)
        assert not first.any()
        assert not torch.equal(last, 0.5 * torch.eye(16))


@pytest.mark.parametrize("trials", range(2, 50))
def test_no_text_is_asked_about_without_another_beside_it(trials: int):
    parts = parts_of(trials, 16)
    assert [begin for begin, _ in parts] == [sum(rows for _, rows in parts[:place]) for place in range(len(parts))]
    assert sum(rows for _, rows in parts) == trials
    assert all(2 <= rows <= 16 for _, rows in parts)


def test_a_fact_that_is_longer_than_a_segment_is_refused(tmp_path: Path):
    backbone = build(TransformerConfig(vocab_size=257, hidden_size=16, num_layers=1, num_heads=2))
    save_model(backbone, tmp_path / "backbone", ByteTokenizer())
    (tmp_path / "a.txt").write_text(TEXT)
    config = RememberConfig(
        source=tmp_path / "backbone", corpus=tmp_path / "a.txt", output=tmp_path / "out", layers=1, segment_length=8
    )
    with pytest.raises(ValueError, match=r"segment_length must be at least 29, the tokens of the longest fact, but is"):
        run_remember(config)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="trials must be at least 2"):
        RememberConfig(source=Path(), trials=1)
    with pytest.raises(ValueError, match="segments and steps must be one of each for a phase"):
        RememberConfig(source=Path(), segments=(2, 4), steps=(3,))
    with pytest.raises(ValueError, match="a phase must have 2 segments"):
        RememberConfig(source=Path(), segments=(1,), steps=(3,))
    with pytest.raises(ValueError, match="distances must grow from 1 on"):
        RememberConfig(source=Path(), distances=(0, 2))
    with pytest.raises(ValueError, match="corpus must have at least twenty tokens"):
        make_facts(ByteTokenizer(), "short", seed=0)
