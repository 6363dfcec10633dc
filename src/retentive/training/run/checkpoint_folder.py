"""Checkpoints on disk: written whole or not at all, and checked before they are read.

A checkpoint is a folder ``step-00001000`` of safetensors files and ``checkpoint.json``, which says how large each of
them is and what its SHA-256 is. It is written under another name and renamed once it is safely on disk, so a run
resumes from the newest folder of that name: there is no pointer to it that could be wrong.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from retentive.errors import DamagedFileError, MismatchError
from retentive.files import (
    FileRecord,
    check_version,
    checksum,
    read_json,
    sync,
    with_checksum,
    without_checksum,
    write_json,
)
from retentive.training.processes.processes import Processes
from retentive.training.processes.sharded_tensors import write_tensors

RECORD_FILE = "checkpoint.json"
FORMAT = "retentive training checkpoint"
FORMAT_VERSION = 1
_UNFINISHED = ".unfinished-"
_CURE = "copy the checkpoint again, or delete its folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run was when a checkpoint was written.

    Attributes:
        step: Steps done.
        best_step: Step with the lowest held-out loss so far; None before the first evaluation.
        best_loss: That loss, in nats per token.
        seconds: Spent in those steps, by this process and those before it.
        pace: Sums of the meter since the last line of metrics; the next line holds their means.
        own_text_released: Step at which own text began to be taken from the neighbours; None before.
    """

    step: int
    best_step: int | None = None
    best_loss: float | None = None
    seconds: float = 0.0
    pace: Mapping[str, float] = field(default_factory=dict)
    own_text_released: int | None = None


def checkpoint_name(step: int) -> str:
    """Return the name of a step's checkpoint folder; names sort by step."""
    return f"step-{step:08d}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return all checkpoint folders of a run, the oldest first. They are not checked to be whole."""
    return sorted(path for path in folder.glob("step-????????*") if path.is_dir())


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], progress: Progress, processes: Processes) -> Path:
    """Write a checkpoint; every process calls this together.

    Raises:
        OSError: If it cannot be written, as on a full disk; earlier checkpoints stay as they are.
    """
    target = folder / checkpoint_name(progress.step)
    unfinished = folder / f"{_UNFINISHED}{target.name}"

    def begin() -> None:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)

    try:
        processes.first_does(begin)
        write_tensors(unfinished, tensors, processes)
        files = _describe(unfinished, processes)
        processes.first_does(lambda: _finish(unfinished, target, progress, files))
    except OSError as error:
        if processes.is_first:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise _unwritten(error, target) from error
    return target


def read_progress(path: Path) -> Progress:
    """Read the progress that a checkpoint records.

    Raises:
        DamagedFileError: If its record is missing or damaged.
        MismatchError: If it has another format version.
    """
    content = _read_record(path)
    return Progress(**content["progress"])


def check_whole(path: Path, processes: Processes) -> None:
    """Compare every file of a checkpoint with its size and SHA-256; the processes share the work.

    Raises:
        DamagedFileError: If one differs, in all processes.
    """
    files = [FileRecord(**entry) for entry in _read_record(path)["files"]]
    faults: list[str] = []
    for record in files[processes.rank :: processes.count]:
        file = path / record.path
        if not file.is_file():
            faults.append(f"{file} is missing")
        elif (size := file.stat().st_size) != record.size:
            faults.append(f"{file} has {size:,} bytes instead of {record.size:,}")
        elif checksum(file) != record.sha256:
            faults.append(f"{file} holds other bytes than were written (its SHA-256 differs)")
    found = [fault for some in processes.gather(faults) for fault in some]
    if found:
        raise DamagedFileError(f"checkpoint {path.name} is damaged: {'; '.join(found)}.")


def newest_checkpoint(folder: Path, processes: Processes) -> Path | None:
    """Return the newest checkpoint, checked to be whole; None if there is none yet.

    Raises:
        DamagedFileError: If the newest one is damaged; the message names the one before it that is whole.
    """
    paths = checkpoint_folders(folder)
    if not paths:
        return None
    try:
        check_whole(paths[-1], processes)
    except DamagedFileError as error:
        earlier = next((path for path in reversed(paths[:-1]) if _is_whole(path, processes)), None)
        cure = (
            f"Delete the folder {paths[-1]} to go on from {earlier.name}, which is whole."
            if earlier is not None
            else f"No earlier checkpoint is whole: copy it again, or delete {folder} to begin anew."
        )
        raise DamagedFileError(f"{error} {cure}") from error
    return paths[-1]


def remove_old(folder: Path, *, keep_last: int, best_step: int | None) -> None:
    """Remove unfinished checkpoints, and all but the newest few and the best."""
    paths = checkpoint_folders(folder)
    kept = {path.name for path in paths[-keep_last:]}
    if best_step is not None:
        kept.add(checkpoint_name(best_step))
    for path in paths:
        if path.name not in kept:
            # Renamed first: a kill during the removal must not leave half a checkpoint under a checkpoint's name.
            path.rename(folder / f"{_UNFINISHED}{path.name}")
    for path in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path)


def _describe(folder: Path, processes: Processes) -> list[FileRecord]:
    """Size and checksum of each file; the processes share the work."""
    paths = sorted(folder.iterdir())[processes.rank :: processes.count]

    def describe() -> list[FileRecord]:
        return [FileRecord(path=path.name, size=path.stat().st_size, sha256=checksum(path)) for path in paths]

    records = (record for some in processes.together(describe) for record in some)
    return sorted(records, key=lambda record: record.path)


def _finish(unfinished: Path, target: Path, progress: Progress, files: list[FileRecord]) -> None:
    """Write the record as the last file, then rename the folder."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "progress": asdict(progress),
        "files": [asdict(record) for record in files],
    }
    write_json(unfinished / RECORD_FILE, with_checksum(content))
    unfinished.rename(target)
    sync(target.parent)


def _read_record(path: Path) -> dict[str, Any]:
    file = path / RECORD_FILE
    try:
        content = read_json(file, cure=_CURE)
        if content.get("format") != FORMAT:
            raise DamagedFileError(f"{file} does not describe a checkpoint: {_CURE}.")
        check_version(content, file, FORMAT_VERSION, cure=_CURE)
        return without_checksum(content, file, cure=_CURE)
    except FileNotFoundError as error:
        raise DamagedFileError(f"checkpoint {path.name} is damaged: {file} is missing: {_CURE}.") from error
    except DamagedFileError as error:
        raise DamagedFileError(f"checkpoint {path.name} is damaged: {error}") from error


def _is_whole(path: Path, processes: Processes) -> bool:
    try:
        check_whole(path, processes)
    except (DamagedFileError, MismatchError):
        return False
    return True


def _unwritten(error: OSError, target: Path) -> OSError:
    earlier = checkpoint_folders(target.parent)
    rest = f"{earlier[-1].name} is whole: the run goes on from it" if earlier else "there is no earlier one"
    cure = f"free some space and start the same command again; {rest}"
    return OSError(error.errno, f"checkpoint not written ({error.strerror or error}): {cure}", str(target))
