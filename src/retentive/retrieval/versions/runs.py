"""Runs of blocks that are indexed together: what an addition or a removal has to index again."""

from collections.abc import Sequence

from retentive.retrieval.index.choice import FLAT_LIMIT
from retentive.retrieval.manifest import ChunkBlock

Run = tuple[int, int]
"""Number of the first block, and how many there are."""

SEGMENT_ROWS = 1 << 14
"""Chunks of a lexical segment, at least: fewer segments search faster, smaller ones are quicker to make again."""

_SEGMENTS = 64
"""Segments of a store, about: above that they grow with it."""


def word_runs(blocks: Sequence[ChunkBlock]) -> list[Run]:
    """Divide blocks into the runs of lexical segments; blocks without chunks at the end get none.

    The runs follow from the blocks alone, so a store's history leaves no trace in them, and an addition makes the last
    one again.
    """
    rows = SEGMENT_ROWS
    while rows * _SEGMENTS < sum(block.rows for block in blocks):
        rows *= 2
    runs: list[Run] = []
    begin, held = 0, 0
    for number, block in enumerate(blocks):
        held += block.rows
        if held >= rows or (number + 1 == len(blocks) and held > 0):
            runs.append((begin, number + 1 - begin))
            begin, held = number + 1, 0
    return runs


def vector_runs(blocks: Sequence[ChunkBlock], earlier: Sequence[Run]) -> list[Run]:
    """The runs of vector indexes after an addition: earlier ones, and one of the blocks that they do not cover.

    The new run takes in those before it while they are no more than twice as long and an exact index holds all:
    thousands of additions then leave few indexes, and each vector is indexed again a few times only.
    """
    runs = list(earlier)
    begin = sum(runs[-1]) if runs else 0
    if begin == len(blocks):
        return runs
    held = sum(block.rows for block in blocks[begin:])
    while runs:
        before = sum(block.rows for block in blocks[runs[-1][0] : sum(runs[-1])])
        if before > 2 * held or before + held > FLAT_LIMIT:
            break
        begin, held = runs.pop()[0], before + held
    return [*runs, (begin, len(blocks) - begin)]
