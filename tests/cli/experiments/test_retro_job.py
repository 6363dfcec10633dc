"""RETRO as a user types it: trained from a token store, fitted to a trained model, writing with neighbours."""

import json
import re
from pathlib import Path

import pytest
import torch

from cli.test_main_job import run, start
from retentive import generate
from retentive.checkpoints import load_model
from retentive.generation.neighbours.file import read_neighbours
from retentive.text.loading import load_tokenizer

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
BACKBONE = ["--model.backbone.hidden-size=16", "--model.backbone.num-layers=2", "--model.backbone.num-heads=2"]
RETRO = ["--model.chunk-size=16", "--model.encoder-hidden-size=16", "--model.encoder-num-heads=2"]
LAYERS = "--model.cross-layers=[1,2]"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retro")
    (folder / "text").mkdir()
    for number in range(30):
        (folder / "text" / f"{number}.txt").write_text(f"Story {number}: once there was a chunk that read. " * 4)
    run("prepare", "--source=text", "--output=store", "--heldout-fraction=0.2", cwd=folder)
    return folder


def refused(*arguments: str, cwd: Path) -> str:
    process = start(*arguments, cwd=cwd)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 2, message
    assert "Traceback" not in message
    return message


@pytest.fixture(scope="module")
def trained(place: Path) -> str:
    """What training said of ``runs/a``."""
    return run("train", "--family=retro", "--store=store", "--run=runs/a", *TRAIN, *BACKBONE, *RETRO, LAYERS, cwd=place)


def test_training_that_stopped_goes_on_bit_for_bit(place: Path, trained: str):
    assert "gone on" not in trained
    command = ["train", "--family=retro", "--store=store", "--run=runs/halves", *TRAIN, *BACKBONE, *RETRO, LAYERS]
    run(*command, "--steps=2", "--schedule.decay-steps=4", cwd=place)
    assert "gone on from step 2" in run(*command, "--schedule.decay-steps=4", cwd=place)
    whole, halves = (load_model(place / f"runs/{name}/model").state_dict() for name in ("a", "halves"))
    assert all(torch.equal(halves[name], tensor) for name, tensor in whole.items())


def test_evaluation_reads_the_neighbours_of_training_and_others(place: Path, trained: str):
    (command,) = (line.split()[1:] for line in trained.splitlines() if "retentive evaluate" in line)
    assert command[-1] == "--neighbours"
    sizes = ["--window=64", "--stride=32"]
    said, numbers = {}, {}
    for name, options in {"on": ["--neighbours"], "off": [], "more": ["--neighbours", "--k=3"]}.items():
        said[name] = run(*command[:-1], *options, *sizes, f"--output={name}.json", cwd=place)
        windows = json.loads((place / f"{name}.json").read_text())["evaluation"]
        numbers[name] = [windows[way]["bits_per_byte"] for way in ("windows", "one_pass")]
    assert "2 neighbours of each chunk" in said["on"]
    assert "without neighbours (--neighbours reads them)" in said["off"]
    assert "3 neighbours of each chunk" in said["more"]
    for way in range(2):
        assert len({found[way] for found in numbers.values()}) == 3
    # Another token store than that of training, whose neighbours nobody has looked for yet.
    run("prepare", "--source=text", "--output=other", "--heldout-fraction=0.5", cwd=place)
    moved = ["evaluate", "runs/a/model", "--store=other", "--neighbours", *sizes, "--output=other.json"]
    assert "2 neighbours of each chunk" in run(*moved, cwd=place)
    assert "neighbours_folder nowhere does not exist; leave it out" in refused(
        *moved, "--neighbours-folder=nowhere", cwd=place
    )
    assert "k means nothing without neighbours; add --neighbours" in refused(*command[:-1], "--k=3", cwd=place)


def test_from_a_token_store_to_text_with_neighbours(place: Path, trained: str):
    assert "held-out loss" in trained
    (suggested,) = (line.split()[1:] for line in trained.splitlines() if "retentive generate" in line)
    assert "--show-neighbours" in suggested
    writing = start(*suggested[1:], "--max-new-tokens=20", "--seed=1", "--stop-at-end=false", cwd=place)
    _, read = writing.communicate(timeout=120)
    assert re.search(r"\[after 16 tokens, for .*\n +\S*\d+\.txt, token \d+, score", read)
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
    message = refused("generate", "runs/a/model", "--show-neighbours", cwd=place)
    assert "store must be given for show_neighbours, but is not" in message
    message = refused("generate", "runs/a/model", "--every=4", cwd=place)
    assert "store or neighbours must be given for every and end_with_prompt" in message
    message = refused("generate", "runs/a/model", "--k=4", cwd=place)
    assert "store must be given for k, but is not: so many neighbours are found in it" in message


def test_text_with_neighbours_of_the_users_own(place: Path, trained: str):
    assert "runs/a/model" in trained
    (place / "own.txt").write_text("a fact of mine that is a good deal longer than a chunk of sixteen\n\nand another\n")
    model, tokenizer = load_model(place / "runs/a/model"), load_tokenizer(place / "runs/a/model")
    own = read_neighbours(place / "own.txt", tokenizer, 16)
    prompt = "Story 3: once there was a chunk that read."
    ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    written = generate(model, ids, max_new_tokens=30, retriever=own).tokens[0].tolist()
    greedy = ["--temperature=0", "--max-new-tokens=30", "--stop-at-end=false"]
    command = ["generate", "runs/a/model", f"--prompt={prompt}", *greedy]
    found = run(*command, "--neighbours=own.txt", cwd=place)
    assert found == tokenizer.decode([token for token in written if token != tokenizer.end_of_text]) + "\n"
    assert "must not both be given" in refused(*command, "--neighbours=own.txt", "--store=store", cwd=place)
    (place / "empty.txt").write_text("\n")
    assert "at least one line of text, but empty.txt has none" in refused(*command, "--neighbours=empty.txt", cwd=place)
    assert "a file of text, one neighbour a line, but no.txt is no file" in refused(
        *command, "--neighbours=no.txt", cwd=place
    )


def test_a_trained_model_stays_what_it_was(place: Path):
    run(
        "train",
        "--family=retnet",
        "--store=store",
        "--run=runs/b",
        *TRAIN,
        *(o.replace("backbone.", "") for o in BACKBONE),
        cwd=place,
    )
    fit = ["train", "--family=retro", "--retrofit=runs/b/model", "--store=store", "--run=runs/c", *TRAIN, *RETRO]
    said = run(*fit, cwd=place)
    share = re.search(r"([\d,]+) of ([\d,]+) parameters learned \(([\d.]+)%\), the backbone is as it was", said)
    assert share, said
    backbone, fitted = load_model(place / "runs/b/model"), load_model(place / "runs/c/model")
    weights = fitted.state_dict()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    tokens = torch.randint(0, 256, (2, 40))
    assert torch.equal(fitted(tokens).logits, backbone(tokens).logits)
    learned = sum(p.numel() for name, p in fitted.named_parameters() if not name.startswith("decoder."))
    assert int(share[1].replace(",", "")) == learned
    message = refused("train", "--retrofit=runs/b/model", "--store=store", "--run=runs/d", "--steps=4", cwd=place)
    assert "retrofit needs --family retro or rmt, which are built around a trained decoder" in message
    # Trained further, it is still that backbone, and learns in the parts that learned.
    further = run("train", "--init=runs/c/model", "--store=store", "--run=runs/e", *TRAIN, cwd=place)
    assert share[0] in further
    assert '"own_text": ' in (place / "runs/e/metrics.jsonl").read_text()
    more = load_model(place / "runs/e/model").state_dict()
    assert all(torch.equal(more[name], tensor) for name, tensor in backbone.state_dict().items())
    assert any(not torch.equal(more[name], weights[name]) for name in more)
