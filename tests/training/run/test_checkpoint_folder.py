"""Checkpoints are whole or absent, checked before they are read, and hold nothing that can run code."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from retentive.errors import DamagedFileError, MismatchError
from retentive.training.processes import sharded_tensors
from retentive.training.processes.processes import alone
from retentive.training.processes.sharded_tensors import read_tensors, stored_tensors
from retentive.training.run import checkpoint_folder
from retentive.training.run.checkpoint_folder import (
    RECORD_FILE,
    Progress,
    check_whole,
    checkpoint_folders,
    newest_checkpoint,
    read_progress,
    remove_old,
    write_checkpoint,
)

TENSORS = {
    "a.weight": torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
    "a.step": torch.tensor(7.0),
    "b": torch.arange(4),
    "c": torch.tensor([True, False]),
    "d": torch.randn(3, generator=torch.Generator().manual_seed(1)).bfloat16(),
    "e": torch.zeros(2, 0, 3, dtype=torch.float64),
}


def write(folder: Path, step: int, best_step: int | None = None) -> Path:
    """A checkpoint of a step."""
    progress = Progress(step=step, best_step=best_step, best_loss=None if best_step is None else 1.5)
    return write_checkpoint(folder, TENSORS, progress, alone())


def damage(path: Path, how: str) -> Path:
    """Damage one file of a checkpoint, and give its path."""
    file = next(iter(sorted(path.glob("*.safetensors"))))
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-4])
    elif how == "altered":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    elif how == "missing":
        file.unlink()
    elif how == "unrecorded":
        (path / RECORD_FILE).unlink()
    elif how == "record altered":
        record = path / RECORD_FILE
        record.write_text(record.read_text().replace('"step": ', '"step": 1'))
    return file


def test_what_is_written_is_read_back(tmp_path: Path):
    path = write(tmp_path, 12, best_step=8)
    check_whole(path, alone())
    assert read_progress(path) == Progress(step=12, best_step=8, best_loss=1.5)
    assert stored_tensors(path) == {name: (t.shape, t.dtype) for name, t in sorted(TENSORS.items())}
    found = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    read_tensors(path, found, alone())
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_tensors_are_spread_over_files_that_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sharded_tensors, "_FILE_BYTES", 64)
    path = write(tmp_path, 1)
    assert len(list(path.glob("*.safetensors"))) > 1
    found = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    read_tensors(path, found, alone())
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_nothing_on_disk_can_run_code(tmp_path: Path):
    path = write(tmp_path, 12)
    for file in path.iterdir():
        if file.suffix == ".json":
            json.loads(file.read_bytes())
        else:
            assert file.suffix == ".safetensors"
            with safe_open(file, framework="pt") as opened:  # a file of another format is refused
                assert opened.keys()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"{file} has [\d,]+ bytes instead of [\d,]+"),
        ("altered", r"{file} holds other bytes than were written \(its SHA-256 differs\)"),
        ("missing", r"{file} is missing"),
        ("unrecorded", r"checkpoint\.json is missing"),
        ("record altered", r"checkpoint\.json was altered after it was written \(its checksum differs\)"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_offered(tmp_path: Path, how: str, message: str):
    first, second = write(tmp_path, 5), write(tmp_path, 10)
    file = damage(second, how)
    cure = rf"Delete the folder {second} to go on from step-00000005, which is whole"
    with pytest.raises(DamagedFileError, match=message.format(file=file)) as caught:
        newest_checkpoint(tmp_path, alone())
    assert "checkpoint step-00000010 is damaged" in str(caught.value)
    assert cure in str(caught.value)
    damage(first, how)
    with pytest.raises(DamagedFileError, match=r"No earlier checkpoint is whole"):
        newest_checkpoint(tmp_path, alone())


def test_another_format_version_is_refused(tmp_path: Path):
    path = write(tmp_path, 5)
    record = path / RECORD_FILE
    record.write_text(record.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(MismatchError, match=r"format version 9, but this retentive reads 1"):
        read_progress(path)


def test_the_newest_is_the_one_to_go_on_from(tmp_path: Path):
    assert newest_checkpoint(tmp_path, alone()) is None
    for step in (9, 100, 20):
        write(tmp_path, step)
    assert newest_checkpoint(tmp_path, alone()) == tmp_path / "step-00000100"


def test_the_last_few_and_the_best_are_kept(tmp_path: Path):
    for step in range(1, 7):
        write(tmp_path, step)
        remove_old(tmp_path, keep_last=2, best_step=2 if step >= 2 else None)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000002", "step-00000005", "step-00000006"]
    remove_old(tmp_path, keep_last=1, best_step=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]


def test_a_failed_write_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = write(tmp_path, 5)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_folder, "write_json", full)
    expected = r"checkpoint not written \(No space left on device\): free some space .* step-00000005 is whole"
    with pytest.raises(OSError, match=expected) as caught:
        write(tmp_path, 10)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == [first]
    check_whole(first, alone())


def test_ctrl_c_while_a_checkpoint_is_written_or_read_is_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And no error of torch's, which has caught it."""
    first = write(tmp_path, 5)

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sharded_tensors.HuggingFaceStorageWriter, "write_data", pressed)
    monkeypatch.setattr(sharded_tensors.HuggingFaceStorageReader, "read_data", pressed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 10)
    with pytest.raises(KeyboardInterrupt):
        read_tensors(first, {name: tensor.clone() for name, tensor in TENSORS.items()}, alone())
    assert newest_checkpoint(tmp_path, alone()) == first


def test_what_a_kill_left_behind_is_no_checkpoint_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = write(tmp_path, 5)
    for moment in ("write_json", "sync"):

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint_folder, moment, killed)
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path, 10)
        found = newest_checkpoint(tmp_path, alone())
        assert found == first if moment == "write_json" else found == tmp_path / "step-00000010"
    remove_old(tmp_path, keep_last=5, best_step=None)
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir())
