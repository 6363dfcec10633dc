"""Whether an output can be written is tried before the work, by every command that writes."""

import errno
import tempfile
from pathlib import Path

import pytest
import torch

from laws.families import small_model
from retentive.checkpoints import save_model
from retentive.cli.commands.index.command import ACTIONS
from retentive.cli.main import main
from retentive.cli.registry import COMMANDS
from retentive.data.prepare import PrepareConfig, prepare
from retentive.errors import MismatchError
from retentive.retrieval import Datastore
from retentive.text.byte_tokenizer import ByteTokenizer
from retrieval.texts import make_documents

WRITERS = {
    "prepare": (
        "output",
        ["--source=text", "--tokenizer=bpe", "--vocab-size=300", "--output={}"],
    ),  # from which no BPE can be learned
    "train": ("run", ["--store=store", "--steps=1", "--data.window=8", "--run={}"]),  # whose tokens are damaged
    "curriculum": ("run", ["--task=copy", "--steps=1", "--run={}"]),
    "evaluate": ("output", ["model", "--store=store", "--output={}"]),
    "evaluate --harness": ("output", ["model", "--output={}"]),
    "inspect": ("output", ["model", "--output={}"]),
    "chat": ("folder", ["model", "--folder={}"]),
    "generate": ("save_state", ["model", "--save-state={}"]),
    "recall": ("output", ["--corpus=/nowhere/text", "--output={}"]),
    "convert": ("dest", ["model", "{}"]),
    "quantise": ("dest", ["model", "{}"]),
    "export": ("out", ["model", "{}"]),
    "linearise": ("dest", ["model", "{}", "--store=store"]),
    "remember": ("output", ["model", "--corpus=/nowhere/text", "--output={}"]),
    "retro_evidence": ("output", ["/nowhere/text", "--output={}"]),
    "retrieval_evidence": ("output", ["/nowhere/text", "--output={}"]),
    "demo": ("output", ["--corpus=/nowhere/text", "--output={}"]),
    "index evaluate": ("run", ["/nowhere/queries", "--judgements=/nowhere/judged", "--store=text", "--run={}"]),
    "index build": ("store", ["--source=/nowhere/text", "--store={}"]),
}
"""Command -> the option that names its output, and arguments with which the work fails as soon as it begins: the model
has lost its weights, the store's tokens are damaged, and other sources are not there."""
OF_A_STORE = {
    "index add": ["--source=text"],
    "index remove": ["document-0"],
    "index sync": ["--source=text"],
    "index gc": [],
    "index reindex": [],
    "index upgrade": [],
}
"""Those that write into what must be there already."""
READERS = {"index search", "index list", "index verify", "index info", "index plan"}
SERVERS = {"serve", "index serve"}
"""They write when they are asked to; `tests/serving` and `tests/retrieval/service` see what they say."""


def refusal(command: str, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), *arguments])
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert len(printed.err.splitlines()) == 1
    return printed.err


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("some words")
    prepare(PrepareConfig(source=tmp_path / "text", output=tmp_path / "store", heldout_fraction=0.0))
    for file in (tmp_path / "store").glob("train-tokens-*"):
        file.write_bytes(bytes(file.stat().st_size))
    (tmp_path / "text" / "a.txt").write_text("")
    save_model(small_model("retnet", dtype=torch.float32, vocab_size=257), tmp_path / "model", ByteTokenizer())
    next((tmp_path / "model").glob("*.safetensors")).unlink()
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse_to_write(**options: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def test_the_tables_name_every_command():
    kinds = {name for name in COMMANDS if name != "index"} | {f"index {action}" for action in ACTIONS}
    assert kinds | {"evaluate --harness"} == WRITERS.keys() | OF_A_STORE.keys() | READERS | SERVERS


@pytest.mark.parametrize("command", WRITERS)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    option, arguments = WRITERS[command]
    name, *more = command.split()
    typed = [*more, *arguments] if name == "index" else [*arguments, *([f"{more[0]}=x"] if more else [])]
    for target, reason in (("file/below", "file is a file: choose another name"), ("new", "Read-only file system")):
        if reason.startswith("Read"):
            monkeypatch.setattr(tempfile, "TemporaryFile", refuse_to_write)
        said = refusal(name, *(argument.format(place / target) for argument in typed), capsys=capsys)
        assert said.startswith(f"retentive: {option} must be"), said
        assert reason in said
    assert not (place / "new").exists()


# The work of a curriculum succeeds.
@pytest.mark.parametrize("command", sorted(WRITERS.keys() - {"curriculum"} | {"prepare held_out"}))
def test_work_that_fails_before_it_wrote_anything_leaves_no_folder(command: str, place: Path):
    text = ["--source=words", "--tokenizer=bytes", "--held_out=none-such", "--output={}"]
    _, arguments = WRITERS.get(command, ("", text))
    name, *more = command.split()
    flags = [f"{one}=x" for one in more if one.startswith("-")]
    typed = [*more, *arguments] if name == "index" else [*arguments, *flags]
    (place / "words").mkdir()
    (place / "words" / "a.txt").write_text("some words")
    before = sorted(place.rglob("*"))
    with pytest.raises((SystemExit, OSError, ValueError)):
        main([name, *(argument.format(place / "deep" / "new") for argument in typed)])
    assert sorted(place.rglob("*")) == before


def test_options_of_a_text_that_is_not_there_bind_no_later_call(place: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("retro_evidence", "retrieval_evidence"):
        for corpus in ("/nowhere/text", "/nowhere/else"):  # not refused as another text than the first
            said = refusal(name, corpus, "--output=evidence", capsys=capsys)
            assert f"source {corpus!r} does not exist" in said


def test_a_store_that_cannot_be_written_is_refused_before_the_work(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    Datastore.build(make_documents(2), place / "datastore", tokenizer=ByteTokenizer())
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse_to_write)
    for command, arguments in OF_A_STORE.items():
        said = refusal(command, *arguments, f"--store={place / 'datastore'}", capsys=capsys)
        assert said.startswith("retentive: store must be where this process can write"), said


def test_what_stands_in_a_folder_of_another_kind_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("some words and more")
    prepare(PrepareConfig(source=tmp_path / "text", output=tmp_path / "store", heldout_fraction=0.0))
    model = small_model("retnet", dtype=torch.float32, vocab_size=257)
    save_model(model, tmp_path / "model", ByteTokenizer())
    kept = (tmp_path / "model" / "config.json").read_bytes()
    tiny = ["--steps=1", "--data.window=8", "--data.batch_size=1", "--schedule.warmup_steps=0", "--held_out.every=null"]
    shape = ["--model.hidden_size=8", "--model.num_layers=1", "--model.num_heads=1"]
    said = refusal("train", "--store=store", "--run=model", *tiny, *shape, capsys=capsys)
    assert "run must be a new folder or that of a run, but model/config.json is of something else" in said
    assert (tmp_path / "model" / "config.json").read_bytes() == kept
    main(["train", "--store=store", "--run=run", *tiny, *shape])
    capsys.readouterr()
    main(["curriculum", "--run=stages", "--task=copy", "--steps=1", "--batch_size=1"])
    capsys.readouterr()
    said = refusal("train", "--store=store", "--run=stages", *tiny, *shape, capsys=capsys)
    assert "stages is that of a curriculum, whose model would be replaced" in said
    Datastore.build(make_documents(2), tmp_path / "datastore", tokenizer=ByteTokenizer())
    (tmp_path / "mine" / "model").mkdir(parents=True)
    for folder, found in (("datastore", "current.json, chunks"), ("other", "manifest.json"), ("mine", "model")):
        if folder == "other":
            prepare(PrepareConfig(source=tmp_path / "text", output=tmp_path / "other", heldout_fraction=0.0))
        for command in (["train", "--store=store", *tiny, *shape], ["curriculum", "--task=copy", "--steps=1"]):
            before = sorted((tmp_path / folder).rglob("*"))
            said = refusal(*command, f"--run={folder}", capsys=capsys)
            assert f"run must be a new folder or that of a run, but {folder} holds {found}" in said
            assert sorted((tmp_path / folder).rglob("*")) == before
    said = refusal("curriculum", "--run=run", "--task=copy", "--steps=1", capsys=capsys)
    assert "run is that of a training run or of a model, whose files would be replaced" in said
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "llama"}')
    for other in ("run", "theirs"):
        with pytest.raises(MismatchError, match="is of a training run or of another library's model, which would be"):
            save_model(model, tmp_path / other)


def test_a_size_beside_a_saved_model_is_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("init", "retrofit"):
        family = ["--family=retro"] if name == "retrofit" else []
        said = refusal(
            "train", "--store=store", "--run=r", "--steps=1", f"--{name}=model", "--size=small", *family, capsys=capsys
        )
        assert said.startswith(f"retentive: size must be left out with {name}")


def test_what_a_memory_goes_around_is_said(place: Path, capsys: pytest.CaptureFixture[str]):
    common = ["train", "--store=store", "--run=r", "--steps=1"]
    said = refusal(*common, "--family=rmt", "--init=model", capsys=capsys)
    assert said.endswith("so family must be that, but is 'rmt'; --retrofit model builds a rmt around it.\n")
    said = refusal(*common, "--family=yoco", "--retrofit=model", capsys=capsys)
    assert "retrofit needs --family retro or rmt" in said
    assert "but family is 'yoco' and model holds a retnet." in said
