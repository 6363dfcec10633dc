"""One state of a prefix cache."""

from dataclasses import dataclass
from pathlib import Path

from retentive.checkpoints.states import StateOrigin
from retentive.generation.prefixes.tree import Run
from retentive.state import ModelState

Key = tuple[str, bytes]


@dataclass(slots=True)
class PrefixEntry:
    """A state that is kept.

    Attributes:
        root: What it depends on beside tokens: the model, and what was retrieved.
        tokens: What it has read.
        origin: The model that made it.
        state: Of one row, on the CPU; None if it is on disk alone.
        file: Where it is on disk.
    """

    root: str
    tokens: Run
    origin: StateOrigin
    state: ModelState | None = None
    file: Path | None = None

    @property
    def key(self) -> Key:
        """Tells the entry from all others."""
        return self.root, self.tokens.tobytes()

    @property
    def size_in_bytes(self) -> int:
        """Bytes that it takes in memory."""
        return self.tokens.nbytes + (0 if self.state is None else self.state.size_in_bytes)
