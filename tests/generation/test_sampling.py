"""Temperature, top-k and top-p do what they say, exactly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive.checkpoints.states import TokenCounts, no_counts
from retentive.errors import DivergedError
from retentive.generation.decoding import RowSampler
from retentive.generation.sampling import (
    Sampling,
    add_counts,
    begin_counts,
    choose,
    kept,
    penalised,
    token_probabilities,
)
from without_hook import errors_of

# Whole numbers make ties, halves and the long tail of a large vocabulary make the rest.
LOGITS = st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=1, max_size=40)


def probabilities_of(logits: list[float]) -> torch.Tensor:
    return torch.tensor([logits], dtype=torch.float64).softmax(-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, r"temperature must be 0 \(greedy\) or a positive number, but is -1.0"),
        ({"temperature": math.nan}, "temperature must be .* but is nan"),
        ({"temperature": math.inf}, "temperature must be .* but is inf"),
        ({"temperature": 1.0, "top_k": 0}, "top_k must be at least 1 token, but is 0; None keeps all"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p must be above 0 and at most 1, but is 0.0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p must be above 0 and at most 1, but is 1.5"),
        ({"temperature": 1.0, "top_p": math.nan}, r"top_p must be a finite number or None, but is nan \(float\)"),
        ({"temperature": 1.0, "seed": -1}, r"seed must be from 0 to 2\*\*63 - 1, but is -1"),
        ({"temperature": 1.0, "min_p": 1.5}, "min_p must be above 0 and at most 1, but is 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be from 0.0001 to 10000, but is 0.0; 1 is none"),
        ({"presence_penalty": math.inf}, "presence_penalty must be a finite number, but is inf"),
        ({"logit_bias": ((1, math.nan),)}, r"logit_bias must be pairs of a token id .*, but one is \(1, nan\)"),
        (
            {"logit_bias": ((1, 1e39),)},
            r"pairs of a token id and a number from -10000 to 10000, but one is \(1, 1e\+39\)",
        ),
        ({"presence_penalty": -1e39}, r"presence_penalty must be from -10000 to 10000, but is -1e\+39; 0 is none"),
        ({"frequency_penalty": 1e39}, r"frequency_penalty must be from -10000 to 10000, but is 1e\+39; 0 is none"),
        ({"repetition_penalty": 1e39}, r"repetition_penalty must be from 0.0001 to 10000, but is 1e\+39; 1 is none"),
        ({"repetition_penalty": 1e-39}, r"repetition_penalty must be from 0.0001 to 10000, but is 1e-39; 1 is none"),
        ({"logit_bias": ((1, 2.0), (1, 3.0))}, "logit_bias must name each id once, but has 1 twice"),
        ({"min_p": 0.1}, "temperature must be above 0 for min_p=0.1 to mean anything"),
        ({"top_p": 0.9}, "temperature must be above 0 for top_p=0.9 to mean anything, but is 0"),
        ({"top_k": 5, "seed": 3}, "temperature must be above 0 for top_k=5, seed=3 to mean anything"),
    ],
)
def test_impossible_values_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def counts_of(text: list[int], said: list[int], vocab: int) -> TokenCounts:
    counts = no_counts(1, vocab, torch.device("cpu"))
    if text:
        counts = begin_counts(counts, torch.tensor([text]), None)
    for token in said:
        add_counts(counts, torch.tensor([token]))
    return counts


def test_each_penalty_does_what_its_paper_says():
    logits = torch.tensor([[2.0, -2.0, 1.0, 0.5, 0.0]])
    counts = counts_of([0, 1], [2, 2, 3], 5)
    found = penalised(logits, Sampling(repetition_penalty=2.0), counts)
    assert found.tolist() == [[1.0, -4.0, 0.5, 0.25, 0.0]]
    found = penalised(logits, Sampling(presence_penalty=0.5), counts)
    assert found.tolist() == [[2.0, -2.0, 0.5, 0.0, 0.0]]
    found = penalised(logits, Sampling(frequency_penalty=0.5), counts)
    assert found.tolist() == [[2.0, -2.0, 0.0, 0.0, 0.0]]


def test_biases_that_are_no_numbers_of_the_range_are_refused():
    biases = (10**400, -(10**400), True)
    for kind, message in errors_of([("retentive.generation:Sampling", {"logit_bias": [[1, bias]]}) for bias in biases]):
        assert kind == "ValueError"
        assert message.startswith(
            "logit_bias must be pairs of a token id and a number from -10000 to 10000, but one is [1,"
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_largest_biases_and_penalties_keep_logits_finite(dtype: torch.dtype):
    logits = torch.tensor([[200.0, -200.0, 1.0]], dtype=dtype)
    counts = counts_of([0, 1], [2] * 50, 3)
    for penalty in (1e4, -1e4):
        sampling = Sampling(
            repetition_penalty=1e4,
            presence_penalty=penalty,
            frequency_penalty=penalty,
            logit_bias=((0, penalty), (1, -penalty)),
        )
        assert choose(logits, sampling, None, counts) >= 0
        assert choose(logits, Sampling(logit_bias=sampling.logit_bias), None) == (0 if penalty > 0 else 1)


def test_penalties_and_biases_change_the_choice():
    logits = torch.tensor([[2.0, 1.5, 1.0]])
    assert choose(logits, Sampling(presence_penalty=1.0), None, counts_of([], [0], 3)).tolist() == [1]
    assert choose(logits, Sampling(logit_bias=((2, 1.5), (1, 0.1))), None).tolist() == [2]
    assert choose(logits, Sampling(logit_bias=((2, 1.5),), never=(2,)), None).tolist() == [0]


@given(logits=LOGITS, min_p=st.floats(0.01, 1.0))
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(logits: list[float], min_p: float):
    sampling = Sampling(temperature=1.0, min_p=min_p)
    found = token_probabilities(torch.tensor([logits], dtype=torch.float64), sampling)[0]
    probabilities = probabilities_of(logits)[0]
    assert (found > 0).tolist() == (probabilities >= min_p * probabilities.max()).tolist()


def test_greedy_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 4.9]])
    assert choose(logits, Sampling(), None).tolist() == [1, 0]


@given(logits=LOGITS, top_k=st.integers(1, 50))
def test_top_k_keeps_the_k_likeliest_and_of_equals_the_first(logits: list[float], top_k: int):
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    found = kept(probabilities_of(logits), top_k, None)
    assert found[0].nonzero().flatten().tolist() == sorted(order[:top_k])


@given(logits=LOGITS, top_p=st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: list[float], top_p: float):
    probabilities = probabilities_of(logits)[0]
    found = kept(probabilities[None], None, top_p)[0]
    inside, outside = probabilities[found], probabilities[~found]
    assert len(inside) >= 1
    assert float(inside.sum()) >= top_p - 1e-12, "it reaches p"
    assert float(inside.sum() - inside.min()) < top_p + 1e-12, "with one token less it would not"
    assert len(outside) == 0 or float(outside.max()) <= float(inside.min()), "none left out is likelier than one kept"
    level = (probabilities == inside.min()).nonzero().flatten()
    assert found[level].tolist() == sorted(found[level].tolist(), reverse=True), "of equals the first stay"


@pytest.mark.parametrize(("top_p", "tokens"), [(0.4, [1]), (0.5, [1, 2]), (0.7, [1, 2]), (0.71, [1, 2, 3]), (1.0, 4)])
def test_the_token_that_crosses_p_is_kept(top_p: float, tokens: list[int] | int):
    logits = torch.tensor([[0.1, 0.4, 0.3, 0.2]], dtype=torch.float64).log()
    found = token_probabilities(logits, Sampling(temperature=1.0, top_p=top_p))[0].nonzero().flatten().tolist()
    assert found == (list(range(4)) if tokens == 4 else tokens)


@given(logits=LOGITS, top_k=st.integers(1, 50), top_p=st.floats(0.01, 0.999))
def test_with_both_p_is_a_share_of_what_top_k_leaves(logits: list[float], top_k: int, top_p: float):
    probabilities = probabilities_of(logits)
    among = probabilities * kept(probabilities, top_k, None)
    among = among / among.sum()
    both = kept(probabilities, top_k, top_p)
    alone = kept(among, None, top_p)
    # The two count in different orders, so a sum within rounding of p may fall on either side.
    near = ((among.sort(descending=True).values.cumsum(-1) - top_p).abs() < 1e-12).any()
    assert torch.equal(both, alone) or bool(near)


@given(seed=st.integers(0, 1000), spread=st.sampled_from([0.01, 1.0, 4.0, 20.0]), top_p=st.floats(0.05, 0.99))
@settings(max_examples=40)
def test_large_vocabularies_follow_the_same_rule(seed: int, spread: float, top_p: float):
    logits = spread * torch.randn(3, 3000, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    probabilities = logits.softmax(-1)
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    expected = torch.zeros_like(probabilities, dtype=torch.bool).scatter(
        -1, ids, before < top_p * ordered.sum(-1, True)
    )
    found = kept(probabilities, None, top_p)
    assert ((found != expected).sum(-1) <= 1).all(), "one token may lie within rounding of p"


@given(logits=LOGITS, top_k=st.none() | st.integers(1, 5), top_p=st.none() | st.floats(0.1, 1.0))
def test_a_token_of_probability_zero_is_never_drawn(logits: list[float], top_k: int | None, top_p: float | None):
    sampling = Sampling(temperature=0.5, top_k=top_k, top_p=top_p)
    rows = torch.tensor([logits, logits])
    extremes = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    drawn = choose(rows, sampling, extremes)
    chances = token_probabilities(rows, sampling).gather(1, drawn[:, None])
    assert bool((chances > 0).all())


def test_tokens_are_drawn_as_often_as_their_probability_says():
    count = 10_000
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.0])
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = choose(logits.expand(count, -1), Sampling(temperature=0.7, top_k=4), uniform)
    expected = (logits.double() / 0.7).exp() * torch.tensor([1, 0, 1, 1, 1])
    frequency = torch.bincount(drawn, minlength=5) / count
    torch.testing.assert_close(frequency.double(), expected / expected.sum(), rtol=0, atol=1.01 / count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_smallest_temperature_is_greedy(dtype: torch.dtype):
    logits = torch.tensor([[1.0, 4.0, -2.0, 3.0]], dtype=dtype)
    uniform = torch.tensor([0.999], dtype=torch.float64)
    assert choose(logits, Sampling(temperature=5e-324), uniform).tolist() == [1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.5}, {"temperature": 0.0}], ids=str)
def test_of_no_number_nothing_is_chosen(value: float, dtype: torch.dtype, options: dict):
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, value, 0.0]], dtype=dtype)
    sampling = Sampling(**{"temperature": 0.7, **options})
    uniform = torch.full((2,), 0.1, dtype=torch.float64)
    sound, broken = choose(logits, sampling, uniform).tolist()
    assert 0 <= sound < 3
    assert broken == -1
    with pytest.raises(DivergedError, match=r"must be finite, but some are NaN or infinite; .* an earlier checkpoint"):
        RowSampler(Sampling()).choose(logits)
