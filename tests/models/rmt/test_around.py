"""A memory around a trained decoder: the decoder stays, the memory learns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.rmt.small import RETNET, random_tokens, small_backbone, small_config
from retentive.checkpoints import load_model, save_model
from retentive.errors import MismatchError
from retentive.models.registry import build
from retentive.models.rmt import with_memory
from retentive.training.step.config import OptimizerConfig
from retentive.training.step.optimizer import make_optimizer


@pytest.mark.parametrize(
    "backbone_config", [small_backbone(tie_embeddings=True), RETNET], ids=["transformer", "retnet"]
)
@pytest.mark.parametrize("associative_dim", [None, 4])
def test_the_memory_learns_and_the_backbone_stays_to_the_last_bit(
    backbone_config, associative_dim: int | None, tmp_path: Path
):
    torch.manual_seed(0)
    backbone = build(backbone_config)
    kind = {} if associative_dim is None else {"memory": "associative", "associative_dim": associative_dim}
    model = with_memory(backbone, small_config(backbone=backbone_config, causal_memory=True, **kind))
    table = backbone.decoder.embedding.tokens.weight
    for learned in model.memory.parameters():
        assert 0.5 < learned.std() / table.std() < 2
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens, optimizer, losses = random_tokens(4, 19), make_optimizer(model, OptimizerConfig(learning_rate=3e-2)), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.state_dict().keys() - backbone.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("decoder."), name
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    save_model(model, tmp_path)
    found = load_model(tmp_path)
    assert not any(weight.requires_grad for weight in found.decoder.parameters())
    assert all(weight.requires_grad for weight in found.memory.parameters())


def test_a_memory_for_another_decoder_is_refused():
    backbone = build(small_backbone())
    with pytest.raises(MismatchError, match=r"config\.backbone must be the config of the model"):
        with_memory(backbone, small_config(backbone=replace(small_backbone(), num_layers=3)))
