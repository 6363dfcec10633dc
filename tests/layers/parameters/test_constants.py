"""Constants are real tensors, whatever the circumstances they are first asked for in."""

import pytest
import torch

from retentive import RetNet, RetNetConfig
from retentive.layers.parameters.constants import constant


@pytest.mark.parametrize("circumstance", [torch.inference_mode, lambda: torch.device("meta")])
def test_what_is_made_first_serves_later(circumstance):
    @constant
    def powers(highest: int) -> torch.Tensor:
        return torch.arange(highest, dtype=torch.float64)

    with circumstance():
        first = powers(3)
    assert first.device.type == "cpu"
    assert not first.is_inference()
    assert powers(3) is first


def test_a_model_made_on_the_meta_device_decays_as_any_other():
    config = RetNetConfig(vocab_size=7, hidden_size=8, num_layers=1, num_heads=2, rotary_base=77.0, decay="geometric")
    with torch.device("meta"):
        model = RetNet(config)
    reference = RetNet(config)
    model.load_state_dict(reference.state_dict(), assign=True)
    tokens = torch.randint(0, 7, (1, 9))
    with torch.inference_mode():
        first = model(tokens).logits
    assert torch.equal(first, reference(tokens).logits)
    model(tokens, labels=tokens).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
