"""What a user reads after an error."""

import errno
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from retentive.cli import registry
from retentive.cli.commands import evaluate
from retentive.cli.main import main
from retentive.cli.mistakes import explanation, is_first_to_say, is_out_of_memory, out_of_memory
from retentive.extras import EXTRA_OF, require
from retentive.files.progress import say

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
MODULES = {"faiss-cpu": "faiss", "lm-eval": "lm_eval", "pyyaml": "yaml"}
SOURCES = "\n".join(path.read_text() for path in (Path(__file__).parents[2] / "src").rglob("*.py"))
WITHOUT_A_MODULE_OF_OURS = {"retentive"}
OF_DEVELOPERS = {"dev", "docs", "test"}


def test_every_extra_is_known_by_its_modules():
    """The table names each package of each extra, and no other."""
    extras: dict[str, set[str]] = {}
    for extra, requirements in PROJECT["optional-dependencies"].items():
        if extra in OF_DEVELOPERS:
            continue
        for requirement in requirements:
            name = re.split(r"[^\w-]", requirement)[0]
            if name not in WITHOUT_A_MODULE_OF_OURS:
                extras.setdefault(MODULES.get(name, name.replace("-", "_")), set()).add(extra)
    assert set(EXTRA_OF) == set(extras)
    assert all(EXTRA_OF[module] in having for module, having in extras.items())


def test_a_package_of_several_extras_is_named_by_the_one_that_the_purpose_needs(monkeypatch: pytest.MonkeyPatch):
    for package, purpose, extra in re.findall(r'require\("(\w+)", "([\w -]+)", extra="(\w+)"\)', SOURCES):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ModuleNotFoundError, match=rf"{purpose} needs {package}.*retentive\[{extra}\]"):
            require(package, purpose, extra=extra)
        brought = " ".join(PROJECT["optional-dependencies"][extra])
        assert package in brought


@pytest.mark.parametrize(
    ("folder", "extra"), [("serving", "serve"), ("huggingface", "hf"), ("retrieval/service", "mcp")]
)
def test_what_a_folder_imports_is_named_by_an_extra_that_the_folder_needs(folder: str, extra: str):
    nested = re.findall(r"retentive\[(\w+)\]", " ".join(PROJECT["optional-dependencies"][extra]))
    for path in (Path(__file__).parents[2] / "src/retentive" / folder).rglob("*.py"):
        source = path.read_text()
        said = {
            package: asked or extra
            for package, asked in re.findall(r'require\("(\w+)"[^)]*?(?:extra="(\w+)")?\)', source)
        }
        for package in re.findall(r"^ *(?:import|from) (\w+)", source, re.MULTILINE):
            if package in EXTRA_OF:
                assert said.get(package, EXTRA_OF[package]) in {extra, *nested}, f"{path}: {package}"


def test_an_error_of_our_own_keeps_its_traceback():
    assert explanation(AssertionError("x")) is None
    assert explanation(KeyError("x")) is None
    assert explanation(ValueError("minutes must be above 0.")) == "minutes must be above 0."


def test_a_full_disk_is_told_with_the_cure_whoever_met_it():
    met = explanation(OSError(errno.ENOSPC, "No space left on device", "licence", None, "copy/licence"))
    assert met is not None
    assert "No space left on device while writing (cure: free some space" in met
    assert met.endswith("'copy/licence'")
    assert explanation(OSError(errno.ENOSPC, met, "licence")) == f"[Errno 28] {met}: 'licence'"


def test_an_error_of_the_system_is_told_with_its_file_and_a_cure(tmp_path: Path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    met: list[OSError] = []
    for path in (tmp_path / "loop" / "x", tmp_path / "file" / "x", tmp_path, tmp_path / "none", tmp_path / ("x" * 300)):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - each of another number
            path.read_bytes()
        met.append(caught.value)
    with pytest.raises(FileExistsError) as caught:
        (tmp_path / "loop").mkdir(parents=True, exist_ok=True)
    for error in (*met, caught.value):
        said = explanation(error)
        assert said is not None
        assert said.startswith(f"{error.filename}: {error.strerror} (")
        assert "Errno" not in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory: make --batch_size or --data.window smaller, or the model."),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes. Error code 12"),
            "out of memory (it asked for 4096 bytes more): make --batch_size or --data.window smaller, or the model.",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of"),
            "out of memory (it asked for 2.50 GiB more): make --batch_size or --data.window smaller, or the model.",
        ),
    ],
)
def test_out_of_memory_names_the_options_that_save_some(error: Exception, said: str):
    assert is_out_of_memory(error)
    assert str(out_of_memory(error, ["steps", "batch_size", "data.window"])) == said


def test_out_of_memory_in_a_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(evaluate, "run", lambda parser, options: torch.empty(1 << 60, dtype=torch.uint8))
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "m", "--store", "s"])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("retentive: out of memory")
    assert "make --window or --chunk_size or --batch_size smaller" in printed
    assert len(printed.splitlines()) == 1


def test_another_runtime_error_is_no_mistake_of_the_users(monkeypatch: pytest.MonkeyPatch):
    def fail(parser: object, options: object) -> None:
        raise RuntimeError("something of ours")

    monkeypatch.setattr(evaluate, "run", fail)
    with pytest.raises(RuntimeError, match="something of ours"):
        registry.run("evaluate", ["m", "--store", "s"])


def test_of_several_processes_one_says_what_all_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whichever fails first says it: torchrun gives each process of a machine a folder beside the others'."""
    heard: list[bool] = []
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / rank / "error.json"))
        heard += [is_first_to_say("steps must be at least 1."), is_first_to_say(f"out of memory in {rank}.")]
    assert heard == [True, True, False, True]
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "0" / "error.json"))
    assert is_first_to_say("steps must be at least 1.")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "")
    assert is_first_to_say("steps must be at least 1.")


def test_of_several_processes_the_first_says_what_is_going_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        say(f"process {rank}")
    assert capsys.readouterr().err == "process 0\n"


INDEX = ("index build", "index add", "index sync", "index search", "index serve")


@pytest.mark.parametrize("command", [name for name in registry.COMMANDS if name != "index"] + [*INDEX])
def test_an_empty_path_is_refused_by_name(command: str, capsys: pytest.CaptureFixture[str]):
    """As of a shell's variable that is not set: it would be the folder in which the command runs."""
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    said = capsys.readouterr().out
    # An option with all that is said of it, in one line.
    options = [" ".join(option.split()) for option in re.split(r"^  (?=--)", said, flags=re.M)[1:]]
    kind = r"type: (<class 'Path'>|Path \| (null|None))"
    paths = [option[2:].split()[0] for option in options if re.search(kind, option)]
    assert paths or command in ("convert", "quantise", "export")  # whose folders have no names
    for option in paths:
        with pytest.raises(SystemExit) as stopped:
            main([*command.split(), f"--{option}="])
        assert stopped.value.code == 2
        assert f"{option} must be a path" in capsys.readouterr().err


def test_an_empty_path_in_a_file_is_refused_with_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "options.yaml"
    file.write_text("store: here\nsteps: 1\nrun: ''\n")
    with pytest.raises(SystemExit):
        main(["train", "--config", str(file)])
    assert f"run must be a path, but is '' (in {file})" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", "here", ""])
    assert "dest must be a path, but is ''" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["sessions", "name"])
def test_a_server_has_no_empty_name_or_place(option: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "model", f"--{option}="])
    assert stopped.value.code == 2
    assert f"{option} must be left out or name something, but is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("train --objective.share 0.2", "--objective.share; what an objective takes stands below its own name"),
        ("train --masked_tokens.share 0.2", "--masked_tokens.share 0.2; these are options of --objective"),
        ("train --family.x=retnet", "--family.x=retnet."),
        ("train --data.window.x 3", "--data.window.x"),
        ("recall --seeds.x 3", "--seeds.x"),
        ("index search words --k.x.y 3", "--k.x.y"),
    ],
)
def test_no_option_stands_below_one_that_takes_a_value(typed: str, said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(typed.split())
    assert stop.value.code == 2
    assert f"unrecognized arguments: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["inspect {}", "generate {} --prompt x", "prepare --source {} --output x"])
def test_a_path_that_is_no_utf_8_is_told_by_its_option(typed: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(typed.format(os.fsdecode(b"caf\xe9")).split())
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert re.search(r"(source|checkpoint) must be UTF-8, but has bytes that are not; if it is a path, rename it", said)
