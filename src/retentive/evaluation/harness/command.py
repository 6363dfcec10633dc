"""Register our models with ``lm_eval``, the command of EleutherAI's lm-evaluation-harness; `uninstall` undoes it.

The harness has a table of models, and neither entry points nor options that add to it. The only way in is a ``.pth``
file in site-packages: Python runs its lines that begin with ``import`` when it starts. Ours adds `HarnessFinder` to the
import finders. It takes a few microseconds, imports nothing, and compares one name for each module imported later.
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

    Its source is copied into the ``.pth`` file, so that it works before, and without, `retentive`: it may use no name
    from outside the class.
    """

    @classmethod
    def find_spec(cls, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        """Let the finders behind this one find every module; wrap the loader of the one with the table."""
        if name != "lm_eval.models":
            return None
        import sys

        # Only the finders behind this one: two finders that ask each other would never end.
        for finder in sys.meta_path[sys.meta_path.index(cls) + 1 :]:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return cls.add_after(spec)
        return None

    @staticmethod
    def add_after(spec: "Any") -> "Any":
        """Make a module spec add our model after its module has run, if the model is installed and not known yet."""
        run = spec.loader.exec_module

        def run_and_add(module: "Any") -> None:
            run(module)
            from importlib.util import find_spec

            try:
                from lm_eval.api.registry import model_registry
            except ImportError:  # another release of the harness: leave it as it is
                return
            if find_spec("retentive") is not None and "retentive" not in model_registry:
                model_registry.register("retentive", target="retentive.evaluation.harness.model:RetentiveLM")

        spec.loader.exec_module = run_and_add
        return spec


def file_content() -> str:
    """A comment for people who find the file, and the line that Python runs at its start."""
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
