"""Rotating query and key, each by its own position, makes the score depend on their distance alone."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retentive.ops import rotary_frequencies, rotary_tables, rotate
from seeds import seeded

LAYOUTS = ["interleaved", "half"]


def turn(x: Tensor, positions: Tensor, frequencies: Tensor, layout: str = "interleaved") -> Tensor:
    cos, sin = rotary_tables(positions[None], frequencies, x.dtype)
    return rotate(x, cos, sin, pairs=layout)


def as_pairs(x: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    return (x[..., 0::2], x[..., 1::2]) if layout == "interleaved" else x.chunk(2, -1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_pair_turns_by_its_angle(layout: str):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = torch.tensor([0, 1, 2, 700, 2**20])
    frequencies = rotary_frequencies(8)
    found = as_pairs(turn(x, positions, frequencies, layout), layout)
    first, second = as_pairs(x, layout)
    for time, position in enumerate(positions.tolist()):
        for pair, frequency in enumerate(frequencies.tolist()):
            angle = torch.tensor(position * frequency, dtype=torch.float64)
            a, b = first[:, :, time, pair], second[:, :, time, pair]
            expected = (a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos())
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours[:, :, time, pair], theirs, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 999), n=st.integers(0, 5000), m=st.integers(0, 5000), shift=st.integers(0, 2**20))
@settings(deadline=None, max_examples=40)
def test_the_key_is_rotated_and_not_conjugated(seed: int, n: int, m: int, shift: int):
    """The theorem of docs/theory/rotation.md, in its three readings."""
    random = seeded(seed)
    query, key = (torch.randn(1, 1, 1, 6, generator=random, dtype=torch.float64) for _ in range(2))
    frequencies = rotary_frequencies(6)

    def score(query_position: int, key_position: int) -> float:
        turned = (turn(x, torch.tensor([p]), frequencies) for x, p in ((query, query_position), (key, key_position)))
        return float(torch.mul(*turned).sum())

    # Real view: R(n)^T R(m) = R(m - n), so the relative form needs one rotation, of the query, by n - m.
    matrices = [
        torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        for c, s in zip(torch.cos((n - m) * frequencies), torch.sin((n - m) * frequencies), strict=True)
    ]
    relative = float(key.flatten() @ torch.block_diag(*matrices) @ query.flatten())
    # Complex view: the real inner product of two complex vectors conjugates the second one by itself.
    q, k = (torch.view_as_complex(x.view(3, 2)) for x in (query, key))
    hermitian = float(
        (q * k.conj() * torch.polar(torch.ones(3, dtype=torch.float64), (n - m) * frequencies)).sum().real
    )
    assert score(n, m) == pytest.approx(relative, abs=1e-9)
    assert score(n, m) == pytest.approx(hermitian, abs=1e-9)
    assert score(n + shift, m + shift) == pytest.approx(score(n, m), abs=1e-8)


def test_conjugating_the_key_would_depend_on_where_the_pair_stands():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 6, dtype=torch.float64)
    frequencies = rotary_frequencies(6)

    def conjugated(n: int, m: int) -> float:
        cos, sin = rotary_tables(torch.tensor([[m]]), frequencies, torch.float64)
        return float((turn(query, torch.tensor([n]), frequencies) * rotate(key, cos, -sin)).sum())

    assert abs(conjugated(5, 3) - conjugated(105, 103)) > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rule", ["retnet", "standard"])
@pytest.mark.parametrize("offset", [0, 1000, 2**20 - 256])
def test_scores_in_float32_at_far_positions(layout: str, rule: str, offset: int):
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 2, 256, 64)
    frequencies = rotary_frequencies(64, frequencies=rule)
    far, near = torch.arange(offset, offset + 256), torch.arange(256)
    scores = turn(query, far, frequencies, layout) @ turn(key, far, frequencies, layout).mT
    exact = turn(query.double(), near, frequencies, layout) @ turn(key.double(), near, frequencies, layout).mT
    assert (scores.double() - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(layout: str):
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64).transpose(1, 2).requires_grad_()
    cos, sin = rotary_tables(torch.randint(0, 100, (2, 5)), rotary_frequencies(4), torch.float64)
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin, pairs=layout), x)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, cos, sin, pairs=layout), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_order_does_not_matter(layout: str):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    cos, sin = rotary_tables(torch.arange(5)[None], rotary_frequencies(8), torch.float64)
    expected = rotate(x, cos, sin, pairs=layout)
    assert expected.is_contiguous()
    wide = torch.randn(2, 3, 5, 17, dtype=torch.float64)
    wide[..., 4:12] = x
    odd = torch.randn(2, 3, 5, 9, dtype=torch.float64)
    odd[..., 1:] = x
    views = [
        x.transpose(1, 2).contiguous().transpose(1, 2),
        x.mT.contiguous().mT,
        wide[..., 4:12],
        odd[..., 1:],
    ]
    for view in views:
        view = view.detach().requires_grad_()
        found = rotate(view, cos, sin, pairs=layout)
        assert torch.equal(found, expected)
        (gradient,) = torch.autograd.grad(found, view, torch.ones_like(found))
        back = rotate(torch.ones_like(x), cos, -sin, pairs=layout)
        torch.testing.assert_close(gradient, back, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 600, 8).to(dtype)
    cos, sin = rotary_tables(torch.arange(2**20, 2**20 + 600)[None], rotary_frequencies(8))
    found = rotate(x, cos, sin)
    assert found.dtype == dtype
    assert torch.equal(found, rotate(x.float(), cos, sin).to(dtype))


def test_rows_may_stand_at_different_positions():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6)
    positions = torch.tensor([[0, 1, 2, 3], [7, 8, 9, 10]])
    frequencies = rotary_frequencies(6)
    together = rotate(x, *rotary_tables(positions, frequencies))
    for row in range(2):
        assert torch.equal(together[row], turn(x[row : row + 1], positions[row], frequencies)[0])


def test_frequency_rules():
    torch.testing.assert_close(
        rotary_frequencies(6), torch.tensor([1, 1e-2, 1e-4], dtype=torch.float64), rtol=1e-15, atol=0
    )
    expected = [10.0 ** (-8 * pair / 6) for pair in range(3)]
    torch.testing.assert_close(
        rotary_frequencies(6, frequencies="standard"), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0
    )
    assert rotary_frequencies(4, base=500.0)[-1].item() == pytest.approx(1 / 500, rel=1e-15)


def test_a_scaled_table_scales_the_result():
    x = torch.randn(1, 2, 3, 4)
    cos, sin = rotary_tables(torch.arange(3)[None], rotary_frequencies(4))
    torch.testing.assert_close(rotate(x, cos / 8, sin / 8), rotate(x, cos, sin) / 8, rtol=0, atol=0)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("kind", "message", "call"),
    [
        (ValueError, "dim must be even and at least 2 to be rotated in pairs, but is 5", lambda: rotary_frequencies(5)),
        (ValueError, "dim must be at least 2, but is 0", lambda: rotary_frequencies(0)),
        (ValueError, "base must be positive, but is 0.0", lambda: rotary_frequencies(4, base=0.0)),
        (
            ValueError,
            'frequencies must be "retnet" or "standard", but is \'xpos\'',
            lambda: rotary_frequencies(4, frequencies="xpos"),
        ),
        (
            TypeError,
            "positions must be integers, but are torch.float32",
            lambda: rotary_tables(torch.zeros(1, 3), rotary_frequencies(4)),
        ),
        (
            ValueError,
            "cos and sin must have dim / 2 = 3 pairs, but have 2",
            lambda: rotate(torch.zeros(1, 1, 3, 6), torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)),
        ),
        (
            ValueError,
            'pairs must be "interleaved" or "half", but is \'neox\'',
            lambda: rotate(torch.zeros(1, 1, 3, 4), torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), pairs="neox"),
        ),
    ],
)
def test_messages(kind, message, call):
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_scaled_frequencies_are_slowed_where_turns_are_few():
    plain = rotary_frequencies(64, frequencies="standard")
    torch.testing.assert_close(rotary_frequencies(64, frequencies="standard", scaling=(4.0,)), plain / 4)
    scaled = rotary_frequencies(64, frequencies="standard", scaling=(8.0, 1.0, 4.0, 512.0))
    turns = plain * 512 / (2 * torch.pi)
    assert torch.equal(scaled[turns > 4], plain[turns > 4])
    torch.testing.assert_close(scaled[turns < 1], plain[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()
    assert (scaled.diff() < 0).all()
