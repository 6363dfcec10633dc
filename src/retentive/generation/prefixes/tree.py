"""A tree of token runs, some of which end at a value."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Int

Value = TypeVar("Value")
Run = Int[np.ndarray, "_"]


@dataclass(slots=True)
class _Node(Generic[Value]):
    """The end of a run of tokens after the node above."""

    run: Run
    below: "dict[int, _Node[Value]]" = field(default_factory=dict)
    value: Value | None = None


class PrefixTree(Generic[Value]):
    """Values by token runs, looked up by the begin of a text: a radix tree, so that runs that begin alike share it."""

    def __init__(self) -> None:
        """Begin without values."""
        self._root: _Node[Value] = _Node(np.zeros(0, dtype=np.int32))

    def longest(self, tokens: Run) -> tuple[int, Value | None]:
        """The length of the longest begin of ``tokens`` that has a value, and the value; 0 and None without any."""
        found: tuple[int, Value | None] = (0, None)
        for length, node in self._along(tokens):
            if node.value is not None:
                found = length, node.value
        return found

    def shared(self, tokens: Run) -> int:
        """How many tokens at the begin of ``tokens`` stand at the begin of some run in the tree."""
        length, node = 0, self._root
        for length, node in self._along(tokens):  # noqa: B007 - the last of them is wanted
            pass
        rest = tokens[length:]
        child = node.below.get(int(rest[0])) if len(rest) else None
        return length + (0 if child is None else _common(child.run, rest))

    def put(self, tokens: Run, value: Value) -> None:
        """Give a run of at least one token a value."""
        length, node = 0, self._root
        for length, node in self._along(tokens):  # noqa: B007 - the last of them is wanted
            pass
        rest = tokens[length:]
        if not len(rest):
            node.value = value
            return
        child = node.below.get(int(rest[0]))
        if child is None:
            node.below[int(rest[0])] = _Node(rest, value=value)
            return
        common = _common(child.run, rest)
        middle: _Node[Value] = _Node(child.run[:common], {int(child.run[common]): child})
        child.run = child.run[common:]
        node.below[int(rest[0])] = middle
        if common == len(rest):
            middle.value = value
        else:
            middle.below[int(rest[common])] = _Node(rest[common:], value=value)

    def remove(self, tokens: Run) -> None:
        """Take the value of a run that has one; runs without values below them go with it."""
        path = [self._root, *(node for _, node in self._along(tokens))]
        path[-1].value = None
        for above, node in zip(reversed(path[:-1]), reversed(path[1:]), strict=True):
            if node.value is not None or len(node.below) > 1:
                return
            if node.below:
                (child,) = node.below.values()
                child.run = np.concatenate((node.run, child.run))
                above.below[int(node.run[0])] = child
                return
            del above.below[int(node.run[0])]

    def _along(self, tokens: Run) -> "Iterator[tuple[int, _Node[Value]]]":
        """The nodes at whole runs along ``tokens``, and how many tokens each ends after."""
        length, node = 0, self._root
        while length < len(tokens):
            child = node.below.get(int(tokens[length]))
            if child is None or not np.array_equal(child.run, tokens[length : length + len(child.run)]):
                return
            length, node = length + len(child.run), child
            yield length, node


def _common(run: Run, other: Run) -> int:
    """How many tokens two runs begin with alike."""
    count = min(len(run), len(other))
    differing = np.flatnonzero(run[:count] != other[:count])
    return int(differing[0]) if len(differing) else count
