"""Tasks of EleutherAI's lm-evaluation-harness over a saved model, as one function."""

import json
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from retentive.checkpoints.manifest import read_manifest
from retentive.config_types import check_kind, check_types
from retentive.files import write_atomically
from retentive.files.targets import check_file_target

OUTPUT_FILE = "harness.json"


# No slots here: the command line's parser reads defaults through a config's ``__dict__``.
@dataclass(frozen=True, kw_only=True)
class HarnessConfig:
    """Measure a trained model on tasks of EleutherAI's lm-evaluation-harness.

    Attributes:
        checkpoint: Folder of the model, as "retentive train" wrote it.
        harness: Names of tasks, separated by commas.
        include_path: Folder with YAML files of your own tasks.
        num_fewshot: Examples before each question; null is the task's own number.
        limit: Documents of each task at most; null takes all.
        output: JSON file for the results; null writes "harness.json" into the model's folder.
        batch_size: Texts side by side. Changes speed, never results.
        chunk_size: Tokens of each text read in one call. Changes speed and memory, never results.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
    """

    checkpoint: Path
    harness: str
    include_path: Path | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    output: Path | None = None
    batch_size: int = 8
    chunk_size: int = 1024
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if not self.tasks:
            raise ValueError(f"harness must name at least one task, but is {self.harness!r}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, or null for all, but is {self.limit}.")
        if self.include_path is not None and not self.include_path.is_dir():
            raise ValueError(f"include_path must be a folder of tasks, but there is no {self.include_path}.")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, one by one."""
        return tuple(name.strip() for name in self.harness.split(",") if name.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessReport:
    """What the harness measured.

    Attributes:
        results: Each task's metrics, as the harness names them.
        table: The same as a table for a terminal.
        output: Where it was written.
        seconds: How long it took.
    """

    results: dict[str, dict[str, Any]]
    table: str
    output: Path
    seconds: float

    def lines(self) -> list[str]:
        """The report as lines for a terminal."""
        return [self.table, f"{self.seconds:,.1f} s. Written to {self.output}"]


def evaluate_tasks(config: HarnessConfig) -> HarnessReport:
    """Run tasks of the harness and write the numbers down.

    Raises:
        ImportError: If the harness is not installed.
        FileNotFoundError: If there is no such model.
        ValueError: If there is no such task.
    """
    check_kind("config", config, HarnessConfig)
    begin = time.perf_counter()
    require_harness()
    read_manifest(config.checkpoint)  # a folder that is not there is no place for the numbers
    output = config.checkpoint / OUTPUT_FILE if config.output is None else config.output
    check_file_target("output", output, suggestion=OUTPUT_FILE)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    from retentive.evaluation.harness.model import RetentiveLM

    make_manager: Any = TaskManager
    manager = make_manager(include_path=None if config.include_path is None else str(config.include_path))
    unknown = [name for name in config.tasks if not manager.match_tasks([name])]
    if unknown:
        raise ValueError(
            f"harness must name tasks that lm-evaluation-harness knows, but not {', '.join(unknown)}; "
            "`lm_eval ls tasks` lists them, and --include_path adds a folder of your own."
        )
    make_model: Any = RetentiveLM
    model = make_model(
        config.checkpoint,
        device=None if config.device == "auto" else config.device,
        batch_size=config.batch_size,
        chunk_size=config.chunk_size,
    )
    run: Any = simple_evaluate  # its annotations name too few arguments
    measured: Any = run(
        model=model,
        tasks=list(config.tasks),
        task_manager=manager,
        num_fewshot=config.num_fewshot,
        limit=config.limit,
        log_samples=False,
    )
    report = HarnessReport(
        results=measured["results"], table=make_table(measured), output=output, seconds=time.perf_counter() - begin
    )
    content = {"config": asdict(config), "results": report.results, "versions": measured["versions"]}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, (json.dumps(content, indent=1, default=str) + "\n").encode("utf-8"))
    return report


def require_harness() -> None:
    """Raise an ImportError with the cure where lm-evaluation-harness is not installed."""
    if find_spec("lm_eval") is None:
        raise ImportError(
            "tasks of lm-evaluation-harness need the harness, which is not installed: pip install 'retentive[harness]'."
        )
