"""A curriculum on disk: checkpoints from which training goes on, and the options that it was begun with."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retentive.errors import MismatchError
from retentive.files import read_json, write_json
from retentive.models.registry import described_now
from retentive.training.processes.sharded_tensors import read_tensors, stored_tensors
from retentive.training.run.checkpoint_folder import (
    Progress,
    newest_checkpoint,
    read_progress,
    remove_old,
    write_checkpoint,
)
from retentive.training.run.run_folder import CONFIG_FILE, CURRICULUM_FILE
from retentive.training.run.run_state import restore_run, run_tensors
from retentive.training.step.learner import Learner

OPTIONS_FILE = CURRICULUM_FILE
_PREFIX = "curriculum."


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumProgress:
    """How far a curriculum is.

    Attributes:
        stage: Index of the current stage.
        recent: The last losses of its longest texts.
        learned: Segments, step and seconds of each stage that was learned.
        losses: Loss of every step.
        seconds: Spent in these steps, by this process and those before it.
    """

    stage: int = 0
    recent: tuple[float, ...] = ()
    learned: tuple[dict[str, Any], ...] = ()
    losses: tuple[float, ...] = ()
    seconds: float = 0.0


class CurriculumFolder:
    """Writes the checkpoints of a curriculum, and reads the newest."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        """Open a folder, or make it.

        Args:
            folder: Where the checkpoints are.
            options: What decides a step, by name: configs, None where one was left out, and plain values.

        Raises:
            MismatchError: If it holds a curriculum of other options, a training run or a model.
        """
        self.folder = folder
        # Through JSON and back, as it is read: tuples are lists there.
        described = json.loads(json.dumps({name: _plain(value) for name, value in options.items()}))
        path = folder / OPTIONS_FILE
        if not path.is_file() and (folder / CONFIG_FILE).exists():
            raise MismatchError(
                f"folder must be a new one or that of a curriculum, but {folder} is that of a training run or of a "
                "model, whose files would be replaced; choose another folder."
            )
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, described)
        earlier = read_json(path, cure="choose another folder")
        if isinstance(earlier.get("model"), dict):
            earlier["model"] = described_now(earlier["model"])
        # Folders of earlier versions say less.
        differing = [name for name in described if name in earlier and earlier[name] != described[name]]
        if differing:
            name = differing[0]
            raise MismatchError(
                f"folder must hold no curriculum of other options, but in {path} {name} is {earlier[name]}, not "
                f"{described[name]}; choose another folder."
            )

    def save(self, learner: Learner, progress: CurriculumProgress) -> None:
        """Write a checkpoint; those before it are removed."""
        numbers = {
            "recent": torch.tensor(progress.recent, dtype=torch.float64),
            "losses": torch.tensor(progress.losses, dtype=torch.float64),
            "learned": torch.tensor(
                [[stage["segments"], stage["step"], stage["seconds"]] for stage in progress.learned],
                dtype=torch.float64,
            ),
        }
        tensors = run_tensors(learner) | {_PREFIX + name: tensor for name, tensor in numbers.items() if len(tensor)}
        step = len(progress.losses)
        write_checkpoint(
            self.folder,
            tensors,
            Progress(step=step, seconds=progress.seconds, pace={"stage": float(progress.stage)}),
            learner.processes,
        )
        remove_old(self.folder, keep_last=1, best_step=None)

    def restore(self, learner: Learner) -> CurriculumProgress:
        """Load the newest checkpoint into a learner; without one, a curriculum begins.

        Raises:
            DamagedFileError: If it is damaged.
            MismatchError: If it is of another model.
        """
        path = newest_checkpoint(self.folder, learner.processes)
        if path is None:
            return CurriculumProgress()
        restore_run(learner, path, parts=1)
        stored = {name: entry for name, entry in stored_tensors(path).items() if name.startswith(_PREFIX)}
        found: dict[str, Tensor] = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in stored.items()}
        read_tensors(path, found, learner.processes)
        lists: dict[str, list[Any]] = {name.removeprefix(_PREFIX): tensor.tolist() for name, tensor in found.items()}
        progress = read_progress(path)
        return CurriculumProgress(
            stage=int(progress.pace["stage"]),
            recent=tuple(lists.get("recent", ())),
            learned=tuple(
                {"segments": int(segments), "step": int(step), "seconds": seconds}
                for segments, step, seconds in lists.get("learned", ())
            ),
            losses=tuple(lists.get("losses", ())),
            seconds=progress.seconds,
        )


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
