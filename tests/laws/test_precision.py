"""A bfloat16 model keeps its tables and its state exact."""

import pytest
import torch

from laws.families import case_name, cases, family_names, random_tokens, small_model
from retentive.layers.mixers.retention import MultiScaleRetention
from retentive.models.decoder import Decoder
from retentive.state import named_tensors


@pytest.mark.parametrize("family", family_names())
def test_tables_do_not_follow_the_model_into_bfloat16(family: str):
    model = small_model(family).bfloat16()
    decoders = [module for module in model.modules() if isinstance(module, Decoder)]
    assert decoders
    for decoder in decoders:
        layout = decoder.layout(torch.zeros(1, 3, dtype=torch.long), torch.tensor([2**20]))
        reference = decoder.double().layout(torch.zeros(1, 3, dtype=torch.long), torch.tensor([2**20]))
        decoder.bfloat16()
        for tables, exact in zip(layout.rotary.values(), reference.rotary.values(), strict=True):
            assert tables.cos.dtype == torch.float32
            torch.testing.assert_close(tables.cos.double(), exact.cos, rtol=0, atol=1e-7)
            torch.testing.assert_close(tables.sin.double(), exact.sin, rtol=0, atol=1e-7)
    for module in model.modules():
        if isinstance(module, MultiScaleRetention):
            decay = module.decay
            assert (decay < 1).all()
            torch.testing.assert_close(decay.flatten().double().log(), module.config.log_decays, rtol=1e-5, atol=0)


def steady_cases() -> list[tuple[str, dict]]:
    """All but memories that, of random weights, amplify every rounding from segment to segment, float32's as much."""
    return [case for case in cases() if not {"associative_dim", "backbone"} & set(case[1])]


@pytest.mark.parametrize(("family", "changes"), steady_cases(), ids=case_name)
def test_a_bfloat16_model_is_as_right_late_as_early(family: str, changes: dict):
    model = small_model(family, dtype=torch.float32, **changes).bfloat16()
    exact = small_model(family, dtype=torch.float32, **changes).bfloat16().float()
    tokens = random_tokens(1, 60)
    difference = (model(tokens).logits.float() - exact(tokens).logits).pow(2).mean(-1).sqrt()[0]
    assert difference[40:].mean() < 2 * difference[:20].mean()
    for name, tensor in named_tensors(model(tokens).state).items():
        if name.endswith(".kv"):
            assert tensor.dtype == torch.float32, name


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_the_loss_is_torchs_cross_entropy(family: str, changes: dict):
    model = small_model(family, **changes)
    tokens, labels = random_tokens(2, 12), random_tokens(2, 12, seed=1)
    labels[0, :5] = -100
    for mode in (model.train, model.eval):
        mode()
        output = model(tokens, labels=labels)
        expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
        torch.testing.assert_close(output.loss, expected, rtol=0, atol=1e-12)
        lean = model(tokens, labels=labels, logits_to_keep=0)
        assert lean.logits is None
        torch.testing.assert_close(lean.loss, expected, rtol=0, atol=1e-12)
    assert model(tokens, labels=torch.full_like(labels, -100)).loss.item() == 0


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_only_the_wanted_logits_are_made(family: str, changes: dict):
    model = small_model(family, **changes)
    tokens = random_tokens(2, 9)
    every = model(tokens).logits
    torch.testing.assert_close(model(tokens, logits_to_keep=1).logits, every[:, -1:], rtol=0, atol=1e-12)
    assert model(tokens, logits_to_keep=50).logits.shape == every.shape
