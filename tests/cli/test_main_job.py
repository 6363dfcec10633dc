"""The main job in miniature, as a user types it: a folder of text becomes a model that streams and goes on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from retentive.cli.commands.train import TORCHRUN

TRAIN = [
    "--steps=6",
    "--schedule.warmup-steps=2",
    "--data.window=32",
    "--data.batch-size=2",
    "--held-out.every=3",
    "--held-out.windows=2",
    "--checkpoints.every=3",
    "--model.hidden-size=16",
    "--model.num-layers=1",
    "--model.num-heads=2",
]

WITH_MEMORY = [
    "--model.segment-length=16",
    "--model.num-memory-tokens=2",
    "--data.mode=streamed",
    "--data.windows-per-graph=2",
    "--hardware.backpropagation=replay",
]
FAMILIES = {
    "retnet": TRAIN,
    "transformer": TRAIN,
    "rmt": [*(option.replace("--model.", "--model.backbone.") for option in TRAIN), *WITH_MEMORY],
}


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "retentive.cli.main", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def run(*arguments: str, cwd: Path, given: str = "") -> str:
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(given, timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a token store and a trained model of each family."""
    folder = tmp_path_factory.mktemp("job")
    text = folder / "text"
    text.mkdir()
    for number in range(30):
        (text / f"{number}.txt").write_text(f"Document {number} says: naïve words, again and again. " * 8)
    out = run("prepare", "--source", "text", "--output", "store", "--heldout-fraction", "0.3", cwd=folder)
    assert "30" not in out.split("train")[0]
    assert "documents" in out
    for family, options in FAMILIES.items():
        out = run("train", "--family", family, "--store", "store", "--run", family, *options, cwd=folder)
        assert "6 steps" in out
        assert "bits per byte" in out
        assert f"next: retentive generate {family}/model" in out
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_session_goes_on_as_if_it_had_never_stopped(place: Path, family: str):
    common = ["--seed=3", "--stop-at-end=false"]
    whole = run("generate", f"{family}/model", "--prompt=Document", "--max-new-tokens=60", *common, cwd=place)
    saved = ["--max-new-tokens=25", "--save-state=s.safetensors", *common]
    first = run("generate", f"{family}/model", "--prompt=Document", *saved, cwd=place)
    rest = run("generate", f"{family}/model", "--state=s.safetensors", "--max-new-tokens=35", *common, cwd=place)
    # A session may end inside a character; the model is untrained enough to do so.
    assert first.removesuffix("\n") + rest == whole


def test_the_prompt_can_come_from_standard_input_and_be_echoed(place: Path):
    options = ["--max-new-tokens=5", "--temperature=0", "--stop-at-end=false"]
    typed = run("generate", "retnet/model", "--prompt=Document 1", "--echo=true", *options, cwd=place)
    piped = run("generate", "retnet/model", "--prompt=-", "--echo=true", *options, cwd=place, given="Document 1")
    assert typed == piped
    assert typed.startswith("Document 1")


def test_a_state_of_another_model_is_refused(place: Path):
    run("generate", "retnet/model", "--max-new-tokens=3", "--save-state=r.safetensors", cwd=place)
    process = start("generate", "transformer/model", "--state=r.safetensors", cwd=place)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "r.safetensors" in err
    assert "family is 'retnet' there and 'transformer' here" in err
    assert "Traceback" not in err


def refused(*arguments: str, cwd: Path, given: bytes = b"") -> str:
    """What a command says that cannot be done."""
    command = [sys.executable, "-m", "retentive.cli.main", *arguments]
    done = subprocess.run(command, cwd=cwd, input=given, capture_output=True, timeout=120, check=False)
    message = done.stderr.decode()
    assert (done.returncode, done.stdout) == (2, b""), message
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (["--prompt="], b"", "prompt must have at least one character, but is empty: leave it out"),
        (["--prompt=-"], b"", "prompt from standard input must have at least one character, but is empty"),
        (["--prompt=-"], b"\xef\xbb\xbf", "prompt from standard input must have at least one character, but is empty"),
        (["--prompt=-"], b"na\xefve", "prompt from standard input must be UTF-8, but its byte 2 is 0xef: convert it"),
        (
            ["--save-state=nosuch/x.st"],
            b"",
            "save_state must be in a folder that is there, but nosuch is none",
        ),
        (["--save-state=retnet"], b"", "save_state must be a file, but retnet is a folder: give retnet/session.safet"),
    ],
)
def test_generation_refuses_before_it_begins(place: Path, arguments: list[str], given: bytes, message: str):
    assert message in refused("generate", "retnet/model", *arguments, cwd=place, given=given)


def test_an_encoder_is_trained_on_masked_tokens(place: Path):
    sizes = [option.replace("--model.", "--model.backbone.") for option in TRAIN]
    encoder = [*sizes, "--model.segment-length=16", "--model.num-memory-tokens=2", "--model.bidirectional=true"]
    common = ["train", "--family", "rmt", "--store", "store", "--run", "encoder", *encoder]
    message = refused(*common, cwd=place)
    assert "objective must be 'masked_tokens' for an encoder" in message
    out = run(*common, "--objective=masked_tokens", "--masked-tokens.share=0.3", cwd=place)
    assert 'next: retentive.load_model("encoder/model")' in out
    assert "bits per byte" not in out
    kept = json.loads((place / "encoder" / "config.json").read_text())
    assert kept["training"]["objective"] == {
        **{"name": "masked_tokens", "share": 0.3, "masked": 0.8, "random": 0.1},
        "mask_token": None,
    }
    card = (place / "encoder" / "model" / "README.md").read_text()
    assert "pipeline_tag: fill-mask" in card
    assert "AutoModelForCausalLM" not in card
    message = refused("evaluate", "encoder/model", "--store=store", cwd=place)
    assert "is an encoder" in message


def test_a_student_is_taught_by_a_saved_model(place: Path):
    (place / "distil.yaml").write_text("objective: distillation\ndistillation:\n  teacher: rmt/model\n")
    common = ["train", "--store", "store", "--run", "student", "--config", "distil.yaml", *TRAIN]
    out = run(*common, "--distillation.temperature=2", cwd=place)
    assert "next: retentive generate student/model" in out
    kept = json.loads((place / "student" / "config.json").read_text())["training"]["objective"]
    assert kept == {"name": "distillation", "teacher": "rmt/model", "temperature": 2.0, "text_share": 0.0}
    sizes = [option for option in TRAIN if not option.startswith("--model.")]
    out = run("train", "--store=store", "--run=on", "--init=rmt/model", *sizes, cwd=place)  # a family by its folder
    assert json.loads((place / "on" / "config.json").read_text())["model"]["family"] == "rmt"
    message = refused("train", "--store=store", "--run=x", "--init=rmt/model", "--family=retnet", *sizes, cwd=place)
    assert "init is the folder of a rmt, so family must be that, but is 'retnet'" in message
    message = refused("train", "--store=store", "--run=other", "--objective=distillation", *TRAIN, cwd=place)
    assert "distillation.teacher" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", [["generate", "retnet/model"], ["evaluate", "retnet/model", "--store=store"]])
def test_a_gpu_that_is_not_there_is_refused(place: Path, command: list[str]):
    message = "device must be 'cpu' or 'auto' on this machine, where torch finds no GPU, but is 'cuda'"
    assert message in refused(*command, "--device=cuda", cwd=place)


def test_the_folder_of_a_run_names_that_of_its_model(place: Path):
    message = "is that of a training run: give the folder of its model, retnet/model"
    assert message in refused("generate", "retnet", cwd=place)
    assert message in refused("evaluate", "retnet", "--store=store", cwd=place)
    (place / "begun").mkdir()
    (place / "begun" / "config.json").write_bytes((place / "retnet" / "config.json").read_bytes())
    assert "a training run that has no model yet" in refused("generate", "begun", cwd=place)


def test_evaluation_prints_and_writes_numbers(place: Path):
    out = run("evaluate", "retnet/model", "--store=store", "--window=64", "--stride=32", "--output=e.json", cwd=place)
    assert "bits per byte" in out
    found = json.loads((place / "e.json").read_text())
    assert 0 < found["evaluation"]["windows"]["bits_per_byte"] < 20


def test_a_yaml_file_gives_the_options_and_the_command_line_overrides_it(place: Path):
    (place / "train.yaml").write_text("family: transformer\nstore: store\nrun: from_yaml\nsteps: 2\n")
    options = [option for option in TRAIN if "steps=" not in option] + ["--schedule.warmup-steps=1"]
    run("train", "--config=train.yaml", "--steps=3", *options, cwd=place)
    written = json.loads((place / "from_yaml" / "config.json").read_text())
    assert written["model"]["family"] == "transformer"
    assert written["training"]["steps"] == 3
    process = start("train", "--config=train.yaml", "--stepps=3", cwd=place)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "stepps" in err


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_goes_on(place: Path):
    long = [option for option in TRAIN if not option.startswith("--steps")] + ["--steps=100000"]
    arguments = ["train", "--store", "store", "--run", "stopped", *long]
    process = start(*arguments, cwd=place)
    metrics = place / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 1) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    assert "run the same command again to resume from here" in out
    assert process.returncode == 130
    written = metrics.read_text().count("\n")
    again = start(*arguments, cwd=place)
    while metrics.read_text().count("\n") <= written and time.monotonic() < deadline:
        time.sleep(0.1)
    again.send_signal(signal.SIGINT)
    out, err = again.communicate(timeout=120)
    assert "gone on from step" in out, err


def test_the_command_of_the_readme_trains_in_two_processes(place: Path):
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (command,) = (line for line in readme.splitlines() if line.startswith("torchrun "))
    asked = subprocess.run(
        [*shlex.split(command), *TRAIN],  # the last value of an option is the one that counts
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.count("run runs/two: 6 steps") == 1, "one process speaks"
    assert (place / "runs" / "two" / "model" / "config.json").exists()
    files = list((place / "runs" / "two" / "checkpoints").glob("step-00000006/*.safetensors"))
    assert len(files) == 2, "one of each process"


def test_help_gives_that_command():
    assert TORCHRUN in " ".join(run("train", "--help", cwd=Path()).split())
    assert TORCHRUN in (Path(__file__).parents[2] / "README.md").read_text("utf-8")
