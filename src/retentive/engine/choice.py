"""The ways to run a model's steps, by name."""

from collections.abc import Callable

from retentive.engine.compiled import CompiledSteps
from retentive.engine.eager import EagerSteps
from retentive.models.protocol import LanguageModel

ENGINES: dict[str, Callable[[LanguageModel], EagerSteps]] = {"eager": EagerSteps, "compile": CompiledSteps}
"""Name -> what makes the steps of a model."""


def check_engine(engine: str) -> None:
    """Validate that there is an engine of this name.

    Raises:
        ValueError: If there is none.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, but is {engine!r}.")


def make_steps(model: LanguageModel, engine: str) -> EagerSteps:
    """Make the steps of a model.

    Raises:
        ValueError: If there is no engine of this name.
    """
    check_engine(engine)
    return ENGINES[engine](model)
