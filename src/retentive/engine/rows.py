"""Rows of an engine's batch: those that share a sampler, and those that have just come."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.engine.protocol import RowLimits, Sampler
from retentive.errors import DivergedError
from retentive.state import ModelState

Failed = tuple[tuple[int, DivergedError], ...]
"""Slots of rows whose logits were not finite, and the error of each."""


@dataclass(slots=True)
class Row:
    """A row that has not ended."""

    slot: int
    limits: RowLimits
    taken: int = 0


@dataclass(slots=True)
class Group:
    """Rows that were added together and share a sampler; they stand side by side in the batch."""

    sampler: Sampler
    rows: list[Row]
    fails_alone: bool = False  # a row that was admitted by itself


@dataclass(slots=True)
class Arrivals:
    """Rows whose prompts have been read, and that join the batch at the next step."""

    group: Group
    logits: Float[Tensor, "rows vocab"]
    state: ModelState

    def without(self, slot: int) -> None:
        """Let one row go."""
        left = torch.tensor([row.slot != slot for row in self.group.rows])
        self.group.sampler.keep(left)
        self.group.rows = [row for row in self.group.rows if row.slot != slot]
        self.logits, self.state = self.logits[left], self.state.select(left)


def diverged_after_prompt() -> DivergedError:
    """The error to raise where the logits after a prompt are not finite."""
    return DivergedError(
        "the model's logits after the prompt must be finite, but some are NaN or infinite; its weights or the given "
        "state are broken: load an earlier checkpoint."
    )
