"""Do neighbours help: the whole comparison in miniature, and its processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORDS = ["state", "token", "chunk", "neighbour", "decay", "query", "value", "reader", "memory", "segment"]
OPTIONS = ["--seeds=[0]", "--own_text_steps=1", "--heldout_bytes=1500", "--dense_model=null", "--fit_steps=2"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a corpus."""
    (tmp_path / "corpus").mkdir()
    drawn = random.Random(0)
    for number in range(20):
        text = " ".join(drawn.choice(WORDS) for _ in range(60))
        (tmp_path / "corpus" / f"{number}.txt").write_text(text)
    return tmp_path


def start(place: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "retentive.cli.main", "retro_evidence", "corpus", "--output=made"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*command, *OPTIONS, *options],
        cwd=place,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=environment,
        start_new_session=True,  # so that Ctrl-C reaches what it starts, and not the tests
    )


def test_every_condition_is_measured_and_nothing_twice(place: Path):
    out, _ = start(place, "--steps=2").communicate(timeout=120)
    content = json.loads((place / "made" / "retro.json").read_text())
    parameters = content["parameters"]
    assert parameters["retro"] == pytest.approx(parameters["transformer"], rel=1e-3)
    found = {(row["condition"], row["over"]): row for row in content["rows"]}
    conditions = ("Transformer, as many steps", "RETRO[OFF]", "RETRO[ON]", "RETRO[ON], others' neighbours")
    bits = {name: found[name, "all chunks"]["bits"][0] for name in conditions}
    assert len(set(bits.values())) == len(conditions), "neighbours are read, and others' are others"
    off = found["RETRO[OFF]", "all chunks"]["bits"][0]
    saved = found["RETRO[ON]", "all chunks"]["less_off"][0]
    assert saved == pytest.approx(bits["RETRO[ON]"] - off)
    assert (place / "made" / "retro.png").stat().st_size > 1000
    assert "RETRO[ON]" in out
    metrics = (place / "made" / "retro-0" / "metrics.jsonl").read_bytes()
    again, _ = start(place, "--steps=2").communicate(timeout=120)
    assert again.splitlines()[:6] == out.splitlines()[:6]
    assert (place / "made" / "retro-0" / "metrics.jsonl").read_bytes() == metrics
    _, refused = start(place, "--steps=3").communicate(timeout=120)
    assert "steps must be 2, with which made was made, but is 3; give another output" in refused


@pytest.mark.parametrize("way", ["kill -9", "Ctrl-C"])
def test_nothing_trains_on_when_it_has_ended(place: Path, way: str):
    # The second model waits for the first: it must not be begun either.
    process = start(place, "--steps=100000", "--side_by_side=1")
    limit = time.monotonic() + 60
    while not (place / "made" / "transformer-0" / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)
    if way == "kill -9":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)
    try:
        # To the end of what is printed: until the last process that could print is gone.
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert list((place / "made" / "transformer-0" / "checkpoints").iterdir()), "the work until then is kept"
    assert not (place / "made" / "retro-0" / "metrics.jsonl").exists()
