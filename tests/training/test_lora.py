"""A low-rank change learns in place of a decoder, and is put into its weights."""

import pytest
import torch

from laws.families import random_tokens, small_model
from retentive.training.lora import add_lora, merge_lora


@pytest.mark.parametrize("family", ["retnet", "yoco", "rmt"])
def test_merged_weights_give_what_was_trained(family: str):
    model = small_model(family)
    names, tokens = set(model.state_dict()), random_tokens(2, 11)
    around = {name: weight.requires_grad for name, weight in model.named_parameters() if name[:8] != "decoder."}
    before = model(tokens).logits
    add_lora(model, 2)
    assert torch.equal(model(tokens).logits, before)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    changes = {name for name in learning if "lora_" in name}
    assert learning - changes == set(around)
    assert len(changes) >= 4 * len(model.decoder.blocks)  # two projections of each mixer, at the least
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in changes:
                weight.normal_()
    changed = model(tokens).logits
    merge_lora(model)
    assert set(model.state_dict()) == names
    assert not torch.allclose(changed, before)
    torch.testing.assert_close(model(tokens).logits, changed, rtol=0, atol=1e-10)
