"""RETRO as a user types it: trained from a token store, fitted to a trained model, writing with neighbours."""

import re
from pathlib import Path

import pytest
import torch

from cli.test_main_job import run, start
from retentive.checkpoints import load_model

TRAIN = [
    "--steps=4",
    "--schedule.warmup-steps=2",
    "--data.window=32",
    "--data.batch-size=2",
    "--held-out.every=2",
    "--held-out.windows=2",
    "--checkpoints.every=2",
    "--checkpoints.keep-last=9",
]
BASE = ["--model.base.hidden-size=16", "--model.base.num-layers=2", "--model.base.num-heads=2"]
RETRO = ["--model.chunk-size=16", "--model.encoder-hidden-size=16", "--model.encoder-num-heads=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retro")
    (folder / "text").mkdir()
    for number in range(30):
        (folder / "text" / f"{number}.txt").write_text(f"Story {number}: once there was a chunk that read. " * 4)
    run("prepare", "--source=text", "--output=store", "--heldout-fraction=0.2", cwd=folder)
    return folder


def test_from_a_token_store_to_text_with_neighbours(place: Path):
    layers = "--model.cross-layers=[1,2]"
    said = run("train", "--family=retro", "--store=store", "--run=runs/a", *TRAIN, *BASE, *RETRO, layers, cwd=place)
    assert "held-out loss" in said
    assert (place / "store" / "neighbours" / "train").is_dir()
    prompt = "Story 3: once there was a chunk that read. Story"
    process = start(
        *("generate", "runs/a/model", f"--prompt={prompt}", "--store=store", "--show-neighbours", "--k=1"),
        *("--max-new-tokens=20", "--seed=1", "--stop-at-end=false"),
        cwd=place,
    )
    _, shown = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    ends = [int(end) for end in re.findall(r"\[after (\d+) tokens, for", shown)]
    assert ends == [16, 32, 48, 64]
    assert re.search(r"after 16 tokens, for 'Story 3: once th'\n +\S*\d+\.txt, token \d+, score", shown)
    silent = run("generate", "runs/a/model", f"--prompt={prompt}", "--max-new-tokens=5", cwd=place)
    assert silent
    refused = start("generate", "runs/a/model", "--show-neighbours", cwd=place)
    assert "store must be given for every, end_with_prompt and show_neighbours" in refused.communicate()[1]


def test_a_trained_model_stays_what_it_was(place: Path):
    run(
        "train",
        "--family=retnet",
        "--store=store",
        "--run=runs/b",
        *TRAIN,
        *(o.replace("base.", "") for o in BASE),
        cwd=place,
    )
    fit = ["train", "--family=retro", "--retrofit=runs/b/model", "--store=store", "--run=runs/c", *TRAIN, *RETRO]
    said = run(*fit, cwd=place)
    share = re.search(r"([\d,]+) of ([\d,]+) parameters learned \(([\d.]+)%\), the base is as it was", said)
    assert share, said
    base, fitted = load_model(place / "runs/b/model"), load_model(place / "runs/c/model")
    weights = fitted.state_dict()
    for name, tensor in base.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    tokens = torch.randint(0, 256, (2, 40))
    assert torch.equal(fitted(tokens).logits, base(tokens).logits)
    learned = sum(p.numel() for name, p in fitted.named_parameters() if not name.startswith("decoder."))
    assert int(share[1].replace(",", "")) == learned
    refused = start("train", "--retrofit=runs/b/model", "--store=store", "--run=runs/d", "--steps=4", cwd=place)
    assert "retrofit needs --family retro" in refused.communicate()[1]
