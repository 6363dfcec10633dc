"""What the benchmarks of models have in common: sizes, and contestants that are built from them."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.racing import machine
from benchmarks.racing.interleave import Contestant, Task
from benchmarks.yardsticks.install import yardstick_python


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """Sizes of the models, and how often each work is done.

    Attributes:
        vocab_size: Token ids of every contestant.
        hidden_size: Channels of the residual stream.
        num_layers: Blocks.
        num_heads: Heads of a block.
        judged: Whether targets apply; they are set for the full sizes.
        rounds: Of each race.
        matrix_size: Of the machine's large square product.
        copy_mebibytes: Of the machine's memory copy.
    """

    vocab_size: int = 8192
    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    judged: bool = True
    rounds: int = 9
    matrix_size: int = 3072
    copy_mebibytes: int = 512

    def sizes(self, *names: str) -> dict[str, Any]:
        """The sizes of every model, and others by name."""
        return {name: getattr(self, name) for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", *names)}

    def machine_tasks(self) -> dict[str, Task]:
        """The machine's own works."""
        return machine.tasks(matrix_size=self.matrix_size, copy_mebibytes=self.copy_mebibytes)


TINY: dict[str, Any] = {
    **{"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 2},
    **{"rounds": 2, "matrix_size": 64, "copy_mebibytes": 1, "judged": False},
}
"""Sizes of a plan that only shows that a benchmark runs."""

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
"""Of a contestant whose process has those that all have."""


def ours(name: str, worker: str, environment: Mapping[str, str] = NO_VARIABLES, **options: Any) -> Contestant:
    """A contestant of this library, in the interpreter that asks."""
    module, python = f"benchmarks.workers.{worker}", Path(sys.executable)
    return Contestant(name=name, python=python, module=module, options=options, environment=environment)


def theirs(
    name: str, package: str, worker: str, environment: Mapping[str, str] = NO_VARIABLES, **options: Any
) -> Contestant:
    """A contestant of another package, in that package's environment.

    Raises:
        FileNotFoundError: If the package is not installed.
    """
    module, python = f"benchmarks.workers.{worker}", yardstick_python(package)
    return Contestant(name=name, python=python, module=module, options=options, environment=environment)
