"""torch's dynamic quantisation takes every projection's place, and the model still computes about the same."""

import warnings

import pytest
import torch
from torch import nn

from laws.families import beside, case_name, cases, random_tokens, small_model
from retentive import generate


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_dynamically_quantised_model_is_nearly_the_model(family: str, changes: dict):
    model, tokens = small_model(family, dtype=torch.float32, **changes), random_tokens(2, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another way of its own
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    with torch.no_grad():
        expected = model(tokens, labels=tokens, **beside(model, tokens))
        found = quantised(tokens, labels=tokens, **beside(quantised, tokens))
    assert (found.logits - expected.logits).abs().mean() < 0.2 * expected.logits.abs().mean()
    assert abs(float(found.loss - expected.loss)) < 0.2
    # Weights of float16 round two hundred times less: what is left is nothing but rounding.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        halved = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.float16)
    with torch.no_grad():
        finely = halved(tokens, **beside(halved, tokens)).logits
    assert 0 < (finely - expected.logits).abs().mean() < 0.003 * expected.logits.abs().mean()
    made = generate(quantised, tokens, max_new_tokens=3).tokens
    whole = torch.cat((tokens, torch.stack(made)), 1)
    with torch.no_grad():
        again = quantised(whole).logits[:, 8:-1].argmax(-1)
    # Activations are quantised by their own range, so a call of many tokens rounds otherwise than one of a few.
    assert (again == torch.stack(made)).float().mean() > 0.3
