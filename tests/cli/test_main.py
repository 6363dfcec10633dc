"""The command line: what it prints, and that a user's mistake ends in one line that helps."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from retentive.cli.main import main
from retentive.cli.registry import COMMANDS


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retentive.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]):
    for arguments in ([], ["--help"], ["-h"]):
        main(arguments)
        printed = capsys.readouterr().out
        assert all(f"retentive {name}" in printed for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]):
    main(["--version"])
    assert capsys.readouterr().out.startswith("retentive 0.")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_option_of_every_command_is_explained(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.split("\noptions:\n")[1].splitlines()
    for number, line in enumerate(lines):
        words = line.split()
        if line.startswith("  -") and "CONFIG" not in line:
            explained = len(words) > 3 or (number + 1 < len(lines) and lines[number + 1].startswith("   "))
            assert explained, line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean 'train'?"),
        (["fly"], "there is no command 'fly'; the commands are prepare, train"),
        (["prepare", "--sorce", "x"], "--sorce"),
        (["prepare", "--source", "/nowhere/at/all", "--output", "x"], "'/nowhere/at/all' does not exist"),
        (
            ["prepare", "--source", ".", "--output", "x", "--heldout-fraction", "2"],
            "heldout_fraction must be from 0 to",
        ),
        (["train", "--store", "/nowhere", "--run", "x", "--steps", "999"], "/nowhere"),
        (["train", "--store", "/nowhere", "--run", "x", "--steps", "0"], "steps must be at least 1 step, but is 0"),
        (["train", "--store", "/nowhere", "--run", "x", "--steps", "many"], "steps"),
        (["train", "--family", "resnet", "--store", "x", "--run", "x", "--steps", "1"], "resnet"),
        (["train", "--size", "huge", "--store", "x", "--run", "x", "--steps", "1"], "huge"),
        (["generate", "/nowhere"], "/nowhere must be the folder of a saved model"),
        (["generate", "/nowhere", "--temperature", "-1"], ""),
        (["evaluate", "/nowhere", "--store", "/nowhere"], "/nowhere"),
        (["demo", "--minutes", "0"], "minutes must be above 0, but is 0"),
    ],
)
def test_a_mistake_is_one_clear_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in printed
    assert "Traceback" not in printed


def test_where_an_error_was_raised_can_be_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RETENTIVE_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["prepare", "--source", "/nowhere/at/all", "--output", "x"])


def test_importing_the_library_is_light():
    program = (
        "import sys, retentive; print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_commands_of_a_datastore_by_words_start_without_torch(tmp_path: Path):
    # Importing it would be most of the time of a search, or of a sync of one changed file.
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("some words")
    where = ["--source", str(tmp_path / "text"), "--store", str(tmp_path / "store")]
    for arguments in (["build", *where, "--tokenizer", "bytes"], ["sync", *where], ["search", "words", *where[2:]]):
        found = without(["torch", "transformers"], "index", *arguments)
        assert found.returncode == 0, found.stderr


def test_asking_a_server_starts_without_what_the_server_has_loaded():
    # The start of this command is most of the time of such a search.
    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = {"text": "owls hunt", "document": "owl.txt", "line": 1, "column": 1, "score": 1.0, "metadata": {}}
            place = {"chunk": 0, "begin": 0, "end": 9, "matches": [[0, 4]], "copies": []}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [answer | place]}).encode())

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        hidden = ["torch", "numpy", "jaxtyping", "regex", "tokenizers", "tantivy", "faiss", "transformers", "tqdm"]
        where = f"http://127.0.0.1:{server.server_port}"
        found = without(hidden, "index", "search", "owls", "--server", where)
    assert found.returncode == 0, found.stderr
    assert "\u27e6owls\u27e7 hunt" in found.stdout


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_need_no_extra(option: str):
    hidden = ["jsonargparse", "yaml", "numpy", "torch", "tokenizers", "faiss", "transformers", "matplotlib"]
    found = without(hidden, option)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("retentive 0." if option == "--version" else "Language models that remember")


@pytest.mark.parametrize(
    ("module", "extra", "arguments"),
    [
        ("jsonargparse", "train", ["train", "--help"]),
        ("yaml", "train", ["train", "--help"]),
        ("tantivy", "retrieval", ["index", "build", "--source", "text", "--store", "store"]),
    ],
)
def test_a_missing_extra_is_named_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str, arguments: list[str]
):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("some words")
    monkeypatch.chdir(tmp_path)
    found = without([module], *arguments)
    assert found.returncode == 2
    said = f"needs {module}, which is not installed: pip install 'retentive[{extra}]'\n"
    assert found.stderr.startswith("retentive: ")
    assert found.stderr.endswith(said)
    assert found.stderr.count("\n") == 1


def without(modules: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where some modules are not installed."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({modules!r})); "
        f"from retentive.cli.main import main; main({list(arguments)!r})"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        (">&-", 0, ""),
        ("<&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("> /dev/full", 2, "while writing (cure: free some space or choose a folder on another disk"),
        ("| true", 0, ""),
        ("index --help | true", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full_end_in_no_traceback(streams: str, code: int, said: str):
    command = "" if "--help" in streams else "--help"
    script = f"set -o pipefail; {sys.executable} -m retentive {command} {streams}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == code, found.stderr
    assert said in found.stderr
    assert found.stderr.count("\n") == (1 if said else 0)
    assert ("'the output'" in found.stderr) == bool(said)


def test_what_the_encoding_of_the_output_lacks_is_written_as_its_number():
    """A text that was written for an hour, or a state that is to be saved after it, is not lost to one character."""
    program = "import retentive.cli.main as m, retentive.cli.registry as r; r.overview = lambda: 'a → b'; m.main([])"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    assert found.stdout == b"a \\u2192 b\n"


def test_the_package_is_the_command():
    command = [sys.executable, "-m", "retentive", "--version"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("retentive 0.")


INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from retentive.cli.main import main
main(["train", "--help"])
"""


@pytest.mark.parametrize("module", ["difflib", "jsonargparse", "torch", "numpy", "retentive.training.run.trainer"])
def test_ctrl_c_while_modules_load_shows_no_traceback(module: str):
    command = [sys.executable, "-c", INTERRUPTED.format(module=module)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "\nretentive: stopped.\n")


def test_every_public_name_is_there():
    import retentive

    for name in retentive.__all__:
        assert getattr(retentive, name) is not None
    assert set(retentive.__all__) <= set(dir(retentive))
    with pytest.raises(AttributeError, match="has no attribute 'Retnet'"):
        _ = retentive.Retnet


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m retentive.cli.main --help | head -n 1"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepare", "--vocab-size=1.5"], "vocab_size must be a whole number or null, but is 1.5."),
        (["train", "--optimizer.clip-norm=hot"], "optimizer.clip_norm must be a number or null, but is hot."),
        (["train", "--data.mode=hot"], "data.mode must be one of 'packed', 'streamed', but is hot."),
        (["train", "--data.window=1.5"], "data.window must be a whole number, but is 1.5."),
        (["train", "--data=hot"], "data is a group of options, --data.NAME, or takes a file of them, but is 'hot'."),
    ],
)
def test_what_is_wrong_with_a_value_is_said_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    needed = {"prepare": ["--source=x", "--output=y"], "train": ["--store=x", "--run=x", "--steps=1"]}[arguments[0]]
    with pytest.raises(SystemExit):
        main([*arguments, *needed])
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"retentive {arguments[0]}: {said}"
    assert second == f"retentive {arguments[0]} --help explains every option."


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["train", "--step", "3"], "unrecognized arguments: --step 3; did you mean --steps?"),
        (["train", "--model.hiden-size=3"], "--model.hiden_size=3; did you mean --model.hidden_size?"),
        (["generate", "m", "--save-sate", "s"], "--save_sate s; did you mean --save_state?"),
        (
            ["generate", "--prompt", "x", "model"],
            "model; the checkpoint stands first: retentive generate CHECKPOINT --option",
        ),
        (["index", "search", "x", "--stor", "s"], "retentive index search: unrecognized arguments: --stor s;"),
        (["train", "--qqqqqq"], "unrecognized arguments: --qqqqqq.\n"),
    ],
)
def test_an_option_that_does_not_exist_is_named_with_the_one_that_was_meant(
    arguments: list[str], cure: str, capsys: pytest.CaptureFixture[str]
):
    needed = ["--store=x", "--run=x", "--steps=1"] if arguments[0] == "train" else []
    with pytest.raises(SystemExit) as stop:
        main([*arguments, *needed])
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert cure in printed
    assert len(printed.splitlines()) == 2, "no page of usage before the message"
    assert "--help explains every option" in printed


def test_help_says_what_is_required_and_what_stands_first(capsys: pytest.CaptureFixture[str]):
    for arguments, wanted in (
        (["generate", "--help"], "usage: retentive generate CHECKPOINT [--option value ...]"),
        (["train", "--help"], "--steps STEPS"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        printed = capsys.readouterr().out
        assert wanted in printed
        about_models = printed[printed.index("  --model.hidden_size") :] if "--model.hidden_size" in printed else ""
        assert "required" not in about_models
