"""The wheel and the source archive: the same bytes from the same source, and enough to stream from a model."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STREAM = """
import sys
import retentive
from retentive import RetNet, RetNetConfig, load_model, save_model, stream

assert sys.prefix in retentive.__file__, retentive.__file__
model = RetNet(RetNetConfig(vocab_size=257, hidden_size=16, num_layers=1, num_heads=1))
save_model(model, sys.argv[1])
tokens = [step for step in stream(load_model(sys.argv[1]), [1, 2, 3], max_new_tokens=5)]
assert len(tokens) == 5
for module in ("transformers", "tokenizers", "matplotlib", "jsonargparse"):
    assert module not in sys.modules
"""

NEEDED = {"torch", "jaxtyping", "numpy", "safetensors", "tqdm"}
"""What the core may depend on."""


def build(source: Path, folder: Path) -> dict[str, bytes]:
    """Both archives by their names."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, which nobody works on between two builds."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("src", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def archives(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build(source, folder)
    return folder


def test_two_builds_are_the_same_bytes(source: Path, archives: Path, tmp_path: Path):
    first = {path.name: path.read_bytes() for path in archives.iterdir()}
    assert sorted(name.rsplit(".", 1)[1] for name in first) == ["gz", "whl"]
    assert build(source, tmp_path) == first


def test_the_wheel_holds_the_package_and_its_types(archives: Path):
    (wheel,) = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
    assert "retentive/py.typed" in names
    assert all(name.startswith(("retentive/", "retentive-")) for name in names)
    needed = {
        line.split(": ")[1].split(">")[0].split("<")[0]
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    }
    assert needed == NEEDED


def test_the_wheel_alone_streams_from_a_model(archives: Path, tmp_path: Path):
    """In an environment of its own; what it depends on is lent to it, as torch alone takes half a minute to install."""
    (wheel,) = archives.glob("*.whl")
    venv.create(tmp_path / "clean", with_pip=False)
    python = tmp_path / "clean" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "clean")}))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--ignore-installed", str(wheel)], check=True, capture_output=True)
    run = subprocess.run(
        [python, "-I", "-c", STREAM, str(tmp_path / "model")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
