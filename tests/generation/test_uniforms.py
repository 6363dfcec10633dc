"""The random numbers are SplitMix64's, and a function of seed, row and position alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retentive.generation.uniforms import uniforms

ALL = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(bits: int) -> int:
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & ALL
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & ALL
    return bits ^ (bits >> 31)


def expected(seed: int, row: int, position: int) -> float:
    start = mix(mix((seed + GOLDEN) & ALL) ^ (row * GOLDEN & ALL))
    return (mix((start + (position + 1) * GOLDEN) & ALL) >> 11) / 2**53


def test_the_reference_is_splitmix64():
    # The first outputs of the published generator for seed 0.
    assert [mix((n + 1) * GOLDEN & ALL) for n in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@given(
    seed=st.integers(0, 2**63 - 1),
    rows=st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    position=st.integers(0, 2**40),
    count=st.integers(1, 5),
)
def test_every_number_is_the_one_of_its_seed_row_and_position(seed: int, rows: list[int], position: int, count: int):
    found = uniforms(seed, torch.tensor(rows), torch.full((len(rows),), position), count)
    for index, row in enumerate(rows):
        assert found[index].tolist() == [expected(seed, row, position + n) for n in range(count)]


@pytest.mark.parametrize("axis", ["seed", "row", "position"])
def test_numbers_along_each_axis_are_uniform(axis: str):
    count, bins = (2_000 if axis == "seed" else 20_000), 20
    if axis == "position":
        found = uniforms(7, torch.tensor([3]), torch.tensor([0]), count).flatten()
    elif axis == "row":
        found = uniforms(7, torch.arange(count), torch.zeros(count, dtype=torch.long)).flatten()
    else:
        zero = torch.zeros(1, dtype=torch.long)
        found = torch.cat([uniforms(seed, zero, zero).flatten() for seed in range(count)])
    assert float(found.min()) >= 0
    assert float(found.max()) < 1
    for sample in (found, (found[1:] - found[:-1]) % 1):  # neighbours are independent of each other too
        observed = torch.histc(sample, bins, 0, 1)
        share = len(sample) / bins
        chi_squared = float(((observed - share) ** 2 / share).sum())
        assert chi_squared < 43.8, "above the 0.1% point of 19 degrees of freedom"
