"""The ways to run a model's steps, by name or by the folder of an export."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from retentive.engine.compiled import CompiledSteps
from retentive.engine.eager import EagerSteps
from retentive.engine.onnx.steps import OnnxSteps
from retentive.engine.packaged import MANIFEST, packaged_steps
from retentive.models.protocol import LanguageModel

ENGINES: dict[str, Callable[[LanguageModel], EagerSteps]] = {
    "eager": EagerSteps,
    "compile": CompiledSteps,
    "onnx": OnnxSteps,
    "onnx-int8": partial(OnnxSteps, bits=8),
    "onnx-int4": partial(OnnxSteps, bits=4),
}
"""Name -> what makes the steps of a model."""


def check_engine(engine: str | Path, name: str = "engine") -> None:
    """Validate that there is an engine of this name, or in this folder; ``name`` is that of the argument.

    Raises:
        ValueError: If there is none.
    """
    is_folder = isinstance(engine, str | Path) and (Path(engine) / MANIFEST).is_file()
    if str(engine) not in ENGINES and not is_folder:
        raise ValueError(
            f"{name} must be one of {', '.join(ENGINES)}, or a folder that 'retentive export' wrote, but is "
            f"{str(engine)!r}."
        )


def make_steps(model: LanguageModel, engine: str | Path) -> EagerSteps:
    """Make the steps of a model.

    Raises:
        ValueError: If there is no such engine, or it cannot run the model.
        MismatchError: If the folder of an export is of another model.
    """
    check_engine(engine)
    return ENGINES[str(engine)](model) if str(engine) in ENGINES else packaged_steps(model, Path(engine))
