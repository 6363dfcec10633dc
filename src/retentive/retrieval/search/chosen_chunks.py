"""Which chunks may be answers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

Mask = Bool[np.ndarray, "chunks"]
"""Whether each chunk of a store may be an answer."""

Test = Callable[[Int64[np.ndarray, "_"]], Bool[np.ndarray, "_"]]
"""Whether each of some chunks may be an answer."""


@dataclass(frozen=True, slots=True)
class ChosenChunks:
    """Some chunks of a store; what it takes long to find out of a chunk is found out when the chunk is asked for.

    Attributes:
        mask: Whether each chunk may be one of them.
        tests: Say which chunks of the mask are.
    """

    mask: Mask
    tests: tuple[Test, ...] = ()

    def __and__(self, other: "ChosenChunks") -> "ChosenChunks":
        """The chunks that are among both."""
        return ChosenChunks(self.mask & other.mask, (*self.tests, *other.tests))

    def have(self, ids: Int64[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
        """Whether each of some chunks is one of them; ids below 0 are not."""
        found = (ids >= 0) & self.mask[ids]
        for test in self.tests:
            found[found] = test(ids[found])
        return found
