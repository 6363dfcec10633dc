"""The tree finds what a list of all runs would find."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retentive.generation.prefixes.tree import PrefixTree

RUNS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


def common(run: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((n for n, (a, b) in enumerate(zip(run, other, strict=False)) if a != b), min(len(run), len(other)))


@given(changes=st.lists(st.tuples(st.booleans(), RUNS), max_size=25), asked=st.lists(RUNS, min_size=1, max_size=5))
def test_the_tree_equals_a_table_of_runs(changes: list[tuple[bool, tuple[int, ...]]], asked: list[tuple[int, ...]]):
    tree, table = PrefixTree[str](), dict[tuple[int, ...], str]()
    for number, (is_put, run) in enumerate(changes):
        tokens = np.array(run, dtype=np.int32)
        if is_put:
            tree.put(tokens, str(number))
            table[run] = str(number)
        elif run in table:
            tree.remove(tokens)
            del table[run]
    for run in [*asked, *table]:
        tokens = np.array(run, dtype=np.int32)
        best = max((len(known) for known in table if run[: len(known)] == known), default=0)
        assert tree.longest(tokens) == (best, table.get(run[:best]))
        assert tree.shared(tokens) == max((common(run, known) for known in table), default=0)
