"""The learning rate is a function of the step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retentive.training.step.schedule import learning_rate_share


@given(data=st.data(), warmup=st.integers(0, 20), more=st.integers(1, 50), final=st.floats(0, 1))
def test_up_to_one_and_then_down_to_the_final_share(data: st.DataObject, warmup: int, more: int, final: float):
    decay = warmup + more

    def share(step: int) -> float:
        return learning_rate_share(step, warmup_steps=warmup, decay_steps=decay, final_share=final)

    step = data.draw(st.integers(0, decay + 10))
    assert 0 <= share(step) <= 1
    if step < warmup:
        assert share(step) == (step + 1) / warmup
    else:
        assert share(step + 1) <= share(step) + 1e-12
    assert share(warmup) == pytest.approx(1.0)
    if more > 1:
        assert share(decay - 1) == pytest.approx(final)
        assert share(decay + 5) == pytest.approx(final)


def test_halfway_down_is_halfway_between():
    assert learning_rate_share(15, warmup_steps=5, decay_steps=26, final_share=0.2) == pytest.approx(0.6)
