"""What is written down along the way: lines of JSON always, TensorBoard on request."""

import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from retentive.files import explain_full_disk, write_atomically


@runtime_checkable
class EventWriter(Protocol):
    """What this module uses of TensorBoard's ``SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Write one number."""
        ...

    def close(self) -> object:
        """Write what is left."""
        ...


class MetricsLog:
    """A file of JSON lines, each with a step, a kind and numbers.

    Args:
        path: The file; lines are added to it.
        after_step: Lines of later steps are removed first: a run that goes on from an earlier checkpoint writes them
            again.
        tensorboard: Folder for TensorBoard events; None writes none.

    Raises:
        ImportError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, path: Path, *, after_step: int, tensorboard: Path | None = None) -> None:
        self._path = path
        _keep_steps(path, after_step)
        self._events: EventWriter | None = None
        if tensorboard is not None:
            self._events = _open_events(tensorboard, after_step)

    def write(self, step: int, kind: str, **numbers: float | None) -> None:
        """Add a line; None stands for a number that is not known."""
        line: dict[str, Any] = {"step": step, "kind": kind, **numbers}
        with explain_full_disk(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name, number in numbers.items():
                if number is not None:
                    self._events.add_scalar(f"{kind}/{name}", number, step)

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self._events is not None:
            self._events.close()


def read_metrics(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a metrics file, all or those of one kind; a last line that a kill has cut off is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return [line for line in lines if kind is None or line["kind"] == kind]


def _keep_steps(path: Path, last: int) -> None:
    if not path.exists():
        return
    kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= last]
    write_atomically(path, "".join(kept).encode())


def _open_events(folder: Path, after_step: int) -> EventWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("metrics.tensorboard needs TensorBoard: pip install retentive[train]") from error
    return SummaryWriter(str(folder), purge_step=after_step + 1)
