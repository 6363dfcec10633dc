"""A trained decoder learns to read neighbours and stays what it was."""

from dataclasses import replace

import pytest
import torch

from laws.families import random_tokens
from models.retro.small import CHUNK, RETNET, random_neighbours, small_base, small_config
from retentive.errors import MismatchError
from retentive.models.registry import build
from retentive.models.retro import retrofit, trainable_share
from retentive.state import map_tensors
from retentive.training.step.config import OptimizerConfig
from retentive.training.step.optimizer import make_optimizer

BASES = [small_base(), small_base(tie_embeddings=True), RETNET, replace(RETNET, residual="deepnorm")]


@pytest.mark.parametrize("base_config", BASES, ids=["plain", "tied", "retnet", "deepnorm"])
@pytest.mark.parametrize("share_embeddings", [False, True])
def test_training_leaves_the_base_as_it_was_to_the_last_bit(base_config, share_embeddings: bool):
    torch.manual_seed(0)
    base = build(base_config).eval()
    residual = base_config.decoder.residual
    config = small_config(base=base_config, share_embeddings=share_embeddings, residual=residual)
    model = retrofit(base, config).train()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    tokens, neighbours = random_tokens(2, 19), random_neighbours(2, 4)
    optimizer = make_optimizer(model, OptimizerConfig(learning_rate=1e-2))
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = model(tokens, labels=tokens, neighbours=neighbours).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.decoder.state_dict().keys() == {name.removeprefix("decoder.") for name in before}
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor), name
        assert torch.equal(base.state_dict()[name], tensor), name
    more = random_tokens(3, 30, seed=1)
    ours, theirs = model.eval()(more), base(more)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(model(more[:, :5], ours.state).logits, base(more[:, :5], theirs.state).logits)
    with torch.no_grad():
        mine, state = (map_tensors(output.state, torch.Tensor.clone) for output in (ours, theirs))
        for column in range(2 * CHUNK + 1):
            logits, mine = model.step(more[:, column], mine)
            expected, state = base.step(more[:, column], state)
            assert torch.equal(logits, expected)
    assert not torch.equal(model(tokens, neighbours=neighbours).logits, base(tokens).logits)


def test_the_trainable_share():
    base = build(small_base())
    model = retrofit(base, small_config())
    learning = sum(p.numel() for module in (model.encoder, model.cross) for p in module.parameters())
    whole = sum(p.numel() for p in model.parameters())
    assert trainable_share(model) == learning / whole
    assert trainable_share(base) == 1


def test_what_would_change_the_base_is_refused():
    base = build(small_base())
    with pytest.raises(MismatchError, match=r"config\.base must be the config of the model that is fitted"):
        retrofit(base, small_config(base=RETNET))
    with pytest.raises(ValueError, match="residual must be 'pre_norm', which the base was trained with"):
        retrofit(base, small_config(residual="deepnorm"))
