"""Metrics of a run: a file of JSON lines, and TensorBoard events on request."""

import json
import os
import socket
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from retentive.errors import DamagedFileError
from retentive.files import explain_full_disk, write_atomically


class MetricsLog:
    """A file of JSON lines, each with a step, a kind and numbers.

    Args:
        path: The file; lines are added to it.
        after_step: Lines of later steps are removed first: a run that resumes from an earlier checkpoint writes them
            again.
        tensorboard: Folder for TensorBoard events; None writes none.

    Raises:
        ImportError: If TensorBoard is asked for and not installed.
        DamagedFileError: If a line of the file that is there, other than the last, is not a line of metrics.
    """

    def __init__(self, path: Path, *, after_step: int, tensorboard: Path | None = None) -> None:
        self._path = path
        _keep_steps(path, after_step)
        self._events = None if tensorboard is None else _Events(tensorboard, after_step)

    def write(self, step: int, kind: str, **numbers: float | None) -> None:
        """Append a line; None stands for an unknown number."""
        line: dict[str, Any] = {"step": step, "kind": kind, **numbers}
        with explain_full_disk(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name, number in numbers.items():
                if number is not None:
                    self._events.add(f"{kind}/{name}", number, step)

    def close(self) -> None:
        """Close the file for TensorBoard."""
        if self._events is not None:
            self._events.close()


def read_metrics(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Read the lines of a metrics file, all or those of one kind; a last line that was cut off by a kill is left out.

    Raises:
        DamagedFileError: If another line cannot be read.
    """
    lines: list[dict[str, Any]] = []
    texts = path.read_bytes().split(b"\n")  # what a kill has cut off has no end of line
    for number, text in enumerate(texts[:-1], 1):
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"]), "kind": str(line["kind"])})
        except (ValueError, LookupError, TypeError) as error:
            raise DamagedFileError(
                f"line {number} of {path} is not a line of metrics: remove it, or the file, to go on without it."
            ) from error
    return [line for line in lines if kind is None or line["kind"] == kind]


def _keep_steps(path: Path, last: int) -> None:
    if not path.exists():
        return
    kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= last]
    write_atomically(path, "".join(kept).encode())


class _Events:
    """A file of TensorBoard events, written line by line.

    TensorBoard's own writer writes from a thread, which meets a full disk where nobody can explain it.
    """

    def __init__(self, folder: Path, after_step: int) -> None:
        try:
            self._event: Any = import_module("tensorboard.compat.proto.event_pb2")
            self._summary: Any = import_module("tensorboard.compat.proto.summary_pb2")
            records: Any = import_module("tensorboard.summary.writer.record_writer")
        except ImportError as error:
            raise ImportError("metrics.tensorboard needs TensorBoard: pip install retentive[train]") from error
        now = time.time()
        self._path = folder / f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"
        with explain_full_disk(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb", buffering=0)
        self._records: Any = records.RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        # TensorBoard forgets the steps from here on that earlier files hold.
        begin = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(step=after_step + 1, session_log=begin)

    def add(self, name: str, number: float, step: int) -> None:
        """Write one number."""
        value = self._summary.Summary.Value(tag=name, simple_value=number)
        self._write(step=step, summary=self._summary.Summary(value=[value]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        with explain_full_disk(self._path):
            self._records.write(self._event.Event(wall_time=time.time(), **content).SerializeToString())
