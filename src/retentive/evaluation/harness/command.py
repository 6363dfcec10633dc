"""Make ``lm_eval``, the command of EleutherAI's lm-evaluation-harness, know our models: opt-in, and undone as easily.

The harness takes models from a table of its own and asks neither entry points nor its options for more. What is left
is a ``.pth`` file in site-packages, whose lines that begin with ``import`` Python runs at its start. Ours puts
`HarnessFinder` among the import finders: a few microseconds, nothing imported, and one comparison of names for each
later import that is not yet known.
"""

import inspect
import sysconfig
from pathlib import Path
from typing import Any

from retentive.files import write_atomically

FILE_NAME = "retentive_harness.pth"
UNDO = "python -m retentive.evaluation.harness --uninstall"


class HarnessFinder:
    """An import finder that adds our model to the harness's table as soon as the table has been made.

    Its source stands in the file, so that it works before, and without, `retentive`: it may use nothing from outside.
    """

    @classmethod
    def find_spec(cls, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        """Leave every module to the finders behind this one; follow the one with the table."""
        if name != "lm_eval.models":
            return None
        import sys

        # Those behind this one, not all others: another finder of this kind must not be asked in a circle.
        for finder in sys.meta_path[sys.meta_path.index(cls) + 1 :]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return cls.add_after(spec)
        return None

    @staticmethod
    def add_after(spec: "Any") -> "Any":
        """A module spec that, once its module has run, adds our model, unless it is known or no longer installed."""
        run = spec.loader.exec_module

        def run_and_add(module: "Any") -> None:
            run(module)
            from importlib.util import find_spec

            try:
                from lm_eval.api.registry import model_registry
            except ImportError:  # another release: it goes on as it would without us
                return
            if find_spec("retentive") is not None and "retentive" not in model_registry:
                model_registry.register("retentive", target="retentive.evaluation.harness.model:RetentiveLM")

        spec.loader.exec_module = run_and_add
        return spec


def file_content() -> str:
    """A line for who finds the file, and the line that Python runs at its start."""
    source, name = inspect.getsource(HarnessFinder), HarnessFinder.__name__
    return (
        f"# Makes lm-evaluation-harness know the models of retentive, and does nothing else. To undo it: {UNDO}\n"
        # Python reads a file twice in some virtual environments, and it can stand in two folders.
        f"import sys; any(getattr(finder, '__name__', '') == {name!r} for finder in sys.meta_path) or "
        f"exec({source!r} + 'sys.meta_path.insert(0, {name})', {{'__name__': 'retentive_harness', 'sys': sys}})\n"
    )


def install(folder: Path | None = None) -> str:
    """Make the harness's own command know our models, in this environment, until `uninstall`.

    Args:
        folder: A folder whose ``.pth`` files Python reads; None is the environment's site-packages.

    Returns:
        What was written, and how to undo it.

    Raises:
        OSError: If the folder cannot be written to.
    """
    file = _file(folder)
    if not (file.is_file() and file.read_text(encoding="utf-8") == file_content()):
        try:
            write_atomically(file, file_content().encode("utf-8"))
        except OSError as error:
            raise _refused(file, error) from error
    return (
        f"{file} is written: `lm_eval --model retentive --model_args pretrained=FOLDER` works in this environment. "
        f"To undo it: {UNDO}"
    )


def uninstall(folder: Path | None = None) -> str:
    """Undo `install`; returns what was done.

    Raises:
        OSError: If the file cannot be removed.
    """
    file = _file(folder)
    if not file.exists():
        return f"there is no {file}: nothing to undo."
    try:
        file.unlink()
    except OSError as error:
        raise _refused(file, error) from error
    return f"removed {file}: lm_eval is as it was."


def _file(folder: Path | None) -> Path:
    return (Path(sysconfig.get_path("purelib")) if folder is None else folder) / FILE_NAME


def _refused(file: Path, error: OSError) -> OSError:
    cure = (
        "use an environment of your own (python -m venv), or python -m retentive.evaluation.harness in place of lm_eval"
    )
    reason = f"site-packages must be writable, but {file.parent} is not ({error.strerror}; cure: {cure})"
    return type(error)(error.errno, reason)
