"""Random numbers for the tokens of a batch, which do not depend on what was drawn before."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDraws:
    """Random numbers that depend on the key, the row and the column alone.

    So a run that is resumed, or shared among another number of processes, draws the same numbers again.

    Attributes:
        key: What decides the numbers, such as the run's seed, the step and the number of the window in the step.
        first_row: Number of the batch's first row among the rows of all processes.
    """

    key: tuple[int, ...]
    first_row: int = 0

    def uniform(self, rows: int, columns: int, count: int = 1) -> Float64[np.ndarray, "rows columns count"]:
        """Return ``count`` numbers from 0 to 1 for every column of every row."""
        generators = (np.random.default_rng((*self.key, self.first_row + row)) for row in range(rows))
        return np.stack([generator.random((columns, count)) for generator in generators])
