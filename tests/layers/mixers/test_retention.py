"""The forms of `MultiScaleRetention` are one function, and its separate inputs are separate."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive import MultiScaleRetention, RetentionConfig
from retentive.layers.norm import NormConfig
from without_hook import assert_refused


def layer(**changes: object) -> MultiScaleRetention:
    torch.manual_seed(0)
    config = RetentionConfig(**{"hidden_size": 12, "num_heads": 2, "key_dim": 4, "value_dim": 5, **changes})
    return MultiScaleRetention(config).double()


@given(time=st.integers(1, 23), chunk_size=st.integers(1, 9), relative_position=st.booleans())
@settings(deadline=None, max_examples=20)
def test_the_three_forms_agree_on_separate_inputs(time: int, chunk_size: int, relative_position: bool):
    mixer = layer(chunk_size=chunk_size, relative_position=relative_position)
    query, key, value = torch.randn(3, 2, time, 12, dtype=torch.float64)
    parallel, end = mixer.forward_parallel(query, key, value)
    chunkwise, chunkwise_end = mixer.forward_chunkwise(query, key, value, 0, None)
    state, steps = None, []
    for index in range(time):
        step, state = mixer.forward_recurrent(query[:, index], key[:, index], value[:, index], index, state)
        steps.append(step)
    torch.testing.assert_close(chunkwise, parallel, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.stack(steps, 1), parallel, rtol=0, atol=1e-12)
    torch.testing.assert_close(chunkwise_end, end, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, end, rtol=0, atol=1e-12)


def test_a_later_piece_starts_at_its_index():
    mixer = layer()
    query, key, value = torch.randn(3, 2, 11, 12, dtype=torch.float64)
    whole, end = mixer.forward_chunkwise(query, key, value)
    first, state = mixer.forward_chunkwise(query[:, :4], key[:, :4], value[:, :4])
    rest, state = mixer.forward_chunkwise(query[:, 4:], key[:, 4:], value[:, 4:], 4, state)
    torch.testing.assert_close(torch.cat((first, rest), 1), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, end, rtol=0, atol=1e-12)


def test_forward_is_the_form_with_one_input():
    mixer = layer()
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    output, state = mixer(x)
    expected, kv = mixer.forward_parallel(x, x, x)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.kv, kv, rtol=0, atol=1e-12)
    assert state.position.tolist() == [9, 9]
    step, later = mixer(x[:, :1], state)
    recurrent, kv = mixer.forward_recurrent(x[:, 0], x[:, 0], x[:, 0], 9, state.kv)
    torch.testing.assert_close(step[:, 0], recurrent, rtol=0, atol=1e-12)
    torch.testing.assert_close(later.kv, kv, rtol=0, atol=1e-12)


def test_each_input_matters():
    mixer = layer()
    query, key, value, other = torch.randn(4, 1, 6, 12, dtype=torch.float64)
    expected, _ = mixer.forward_parallel(query, key, value)
    for changed in ((other, key, value), (query, other, value), (query, key, other)):
        assert not torch.allclose(mixer.forward_parallel(*changed)[0], expected)


def test_without_relative_position_the_start_does_not_matter():
    x = torch.randn(1, 5, 12, dtype=torch.float64)
    for relative_position in (True, False):
        mixer = layer(relative_position=relative_position)
        _, state = mixer.forward_chunkwise(x, x, x)
        near, _ = mixer.forward_chunkwise(x, x, x, 5, state)
        far, _ = mixer.forward_chunkwise(x, x, x, 500, state)
        assert torch.allclose(near, far) is not relative_position


@given(time=st.integers(1, 9), decay=st.sampled_from([-2.0, -0.1, -1e-9, 0.0]))
@settings(deadline=None, max_examples=20)
def test_normalised_scores_are_what_the_epsilon_of_the_head_norm_grows_by(time: int, decay: float):
    # Dividing what is normalised by c is the same as an epsilon that is c ** 2 times as large.
    epsilon = 0.3
    x = torch.randn(2, time, 12, dtype=torch.float64)
    rates = (decay, -0.5)
    for position in range(time):
        for head, rate in enumerate(rates):
            total = sum(math.exp(rate * age) for age in range(position + 1))
            normalised = layer(
                log_decay=rates, head_norm=NormConfig(affine=False, epsilon=epsilon), normalise_scores=True
            )
            plain = layer(log_decay=rates, head_norm=NormConfig(affine=False, epsilon=epsilon * total))
            outputs = []
            for mixer in (normalised, plain):
                mixer.output_proj.weight.data[:, 5 * (1 - head) : 5 * (2 - head)] = 0  # one head alone
                outputs.append(mixer(x)[0][:, position])
            torch.testing.assert_close(*outputs, rtol=0, atol=1e-10)


IMPOSSIBLE = [
    ({"num_heads": 0}, "num_heads must be at least 1, but is 0"),
    ({"chunk_size": 0}, "chunk_size must be at least 1, but is 0"),
    ({"key_dim": 3}, "even number of channels in a head, but key_dim is 3"),
    ({"decay": "fast"}, "decay must be 'geometric' or 'linspace', but is 'fast'"),
    ({"gate": "mish"}, "gate must be 'swish', 'gelu' or 'relu', but is 'mish'"),
    ({"log_decay": (-0.1,)}, r"one log\(gamma\) a head, 2 numbers at most 0, but is \(-0.1,\)"),
    ({"log_decay": (0.1, -0.1)}, "at most 0, but is"),
    ({"relative_position": False, "rotary_base": 5.0}, "mean nothing with relative_position=False"),
]


def test_impossible_layers_are_refused():
    sizes = {"hidden_size": 12, "num_heads": 2, "key_dim": 4, "value_dim": 5}
    calls = [("retentive:RetentionConfig", {**sizes, **changes}) for changes, _ in IMPOSSIBLE]
    assert_refused(calls, [pattern for *_, pattern in IMPOSSIBLE])


def test_float16_reads_long_sums():
    """A head reads thousands of like tokens: 1 / (1 - gamma) times one of them is beyond float16 before the norm."""
    torch.manual_seed(0)
    config = RetentionConfig(hidden_size=64, num_heads=8, key_dim=32, value_dim=32, decay="geometric")
    mixer = MultiScaleRetention(config)
    with torch.no_grad():
        query, key, value, _ = mixer.input_proj.weight.split(mixer.sizes)
        torch.nn.init.normal_(mixer.input_proj.weight, std=0.25)
        key.copy_(query)
        value.mul_(8)
    x = torch.randn(1, 1, 64).expand(1, 8192, 64)
    wide, half = mixer(x)[0], mixer.half()
    assert mixer.head_norm(torch.zeros(1, 32)).dtype is torch.float32
    for output in (half(x.half())[0], half.forward_parallel(*[x[:, :2048].half()] * 3)[0]):
        torch.testing.assert_close(output.float(), wide[:, : output.shape[1]], rtol=0.02, atol=0.02)
    with torch.no_grad():
        output, state = half(x.half())
        step, _ = half(x[:, :1].half(), state)
    assert output.isfinite().all()
    assert step.isfinite().all()


@pytest.mark.usefixtures("without_shape_checks")
def test_inputs_of_another_width_or_time_are_refused():
    mixer, x = layer(), torch.randn(2, 3, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x must be \(batch, time, hidden_size = 12\), but has shape \(2, 3, 11\)"):
        mixer(x[..., :11])
    with pytest.raises(ValueError, match=r"key must have the batch and time of query .* but has shape \(2, 2, 12\)"):
        mixer.forward_parallel(x, x[:, :2], x)
    with pytest.raises(ValueError, match="index of the first token must be at least 0, but is -1"):
        mixer.forward_chunkwise(x, x, x, -1)
