"""The ways to run a model's steps, by name."""

from collections.abc import Callable

from retentive.engine.compiled import CompiledSteps
from retentive.engine.eager import EagerSteps
from retentive.models.protocol import LanguageModel

ENGINES: dict[str, Callable[[LanguageModel], EagerSteps]] = {"eager": EagerSteps, "compile": CompiledSteps}
"""Name -> what makes the steps of a model."""


def make_steps(model: LanguageModel, engine: str) -> EagerSteps:
    """Make the steps of a model.

    Raises:
        ValueError: If there is no engine of this name.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, but is {engine!r}.")
    return ENGINES[engine](model)
