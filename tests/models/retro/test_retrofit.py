"""A trained decoder learns to read neighbours and stays what it was."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from laws.families import random_tokens
from models.retro.small import CHUNK, RETNET, random_neighbours, small_backbone, small_config
from retentive.checkpoints import load_model, save_model
from retentive.errors import MismatchError
from retentive.models.registry import build
from retentive.models.retro import retro_over, retrofit, trainable_share
from retentive.ops.rotary import rotate
from retentive.state import map_tensors
from retentive.training.step.config import OptimizerConfig
from retentive.training.step.optimizer import make_optimizer

BACKBONES = [small_backbone(), small_backbone(tie_embeddings=True), RETNET, replace(RETNET, residual="deepnorm")]


@pytest.mark.parametrize("backbone_config", BACKBONES, ids=["plain", "tied", "retnet", "deepnorm"])
@pytest.mark.parametrize("share_embeddings", [False, True])
def test_training_leaves_the_backbone_as_it_was_to_the_last_bit(backbone_config, share_embeddings: bool):
    torch.manual_seed(0)
    backbone = build(backbone_config).eval()
    residual = backbone_config.decoder.residual
    config = small_config(backbone=backbone_config, share_embeddings=share_embeddings, residual=residual)
    model = retrofit(backbone, config).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
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
        assert torch.equal(backbone.state_dict()[name], tensor), name
    more = random_tokens(3, 30, seed=1)
    ours, theirs = model.eval()(more), backbone(more)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(model(more[:, :5], ours.state).logits, backbone(more[:, :5], theirs.state).logits)
    with torch.no_grad():
        mine, state = (map_tensors(output.state, torch.Tensor.clone) for output in (ours, theirs))
        for column in range(2 * CHUNK + 1):
            logits, mine = model.step(more[:, column], mine)
            expected, state = backbone.step(more[:, column], state)
            assert torch.equal(logits, expected)
    assert not torch.equal(model(tokens, neighbours=neighbours).logits, backbone(tokens).logits)


def test_the_trainable_share():
    backbone = build(small_backbone())
    model = retrofit(backbone, small_config())
    learning = sum(p.numel() for module in (model.encoder, model.cross) for p in module.parameters())
    whole = sum(p.numel() for p in model.parameters())
    assert trainable_share(model) == learning / whole
    assert trainable_share(backbone) == 1


def test_what_would_change_the_backbone_is_refused():
    backbone = build(small_backbone())
    with pytest.raises(MismatchError, match=r"config\.backbone must be the config of the model that is fitted"):
        retrofit(backbone, small_config(backbone=RETNET))
    with pytest.raises(ValueError, match="residual must be 'pre_norm', which the backbone was trained with"):
        retrofit(backbone, small_config(residual="deepnorm"))


@pytest.mark.parametrize("pairs", ["interleaved", "half"])
@pytest.mark.parametrize("kv_heads", [None, 1])
def test_the_encoder_starts_from_the_first_layers_and_readers_from_nothing(pairs: str, kv_heads: int | None):
    torch.manual_seed(0)
    backbone = build(small_backbone(rotary_pairs=pairs, num_kv_heads=kv_heads)).eval()
    model = retrofit(
        backbone, replace(retro_over(backbone.config), chunk_size=CHUNK, chunk_offset=0, encoder_cross_layers=())
    )
    tokens, neighbours = random_tokens(2, 19), random_neighbours(2, 4)
    assert torch.equal(model(tokens, neighbours=neighbours).logits, backbone(tokens).logits)
    # One token at a place reads itself alone: there, what reads in both directions is what reads back.
    single = random_tokens(1, 1)
    encoded = model.encoder.blocks[0](
        model.encoder.embedding(single)[:, None, None], None, torch.zeros(1, 1, CHUNK, 16), None
    )
    hidden = backbone.decoder.embed(single, backbone.decoder.layout(single, None))
    expected, _ = backbone.decoder.blocks[0](hidden, None, backbone.decoder.layout(single, None))
    assert torch.allclose(encoded.flatten(), expected.flatten(), atol=1e-6)
    # Scores between places, too, whichever channels turn together.
    read = backbone.decoder.blocks[0].mixer_norm(backbone.decoder.embed(tokens, backbone.decoder.layout(tokens, None)))
    attention, places = model.encoder.blocks[0].attention, torch.arange(19)[None]
    query, (key, _) = attention.query(read, places, 19), attention.key_value(read, places, 19)
    parts = backbone.decoder.blocks[0].mixer.input_projections()[0].parts()
    tables, dim = (
        backbone.decoder.layout(tokens, None).tables(backbone.config.attention.rotary),
        backbone.config.attention.key_dim,
    )
    theirs = [
        rotate((read @ parts[name].T).unflatten(-1, (-1, dim)).transpose(1, 2), tables.cos, tables.sin, pairs=pairs)
        for name in ("query", "key")
    ]
    scores = theirs[0] @ theirs[1].repeat_interleave(backbone.config.num_heads // theirs[1].shape[1], 1).mT
    assert torch.allclose(query @ key.mT, scores, atol=1e-5)


def test_a_backbone_of_another_kind_gives_what_fits():
    backbone = build(RETNET).eval()
    model = retrofit(backbone, retro_over(RETNET))
    assert torch.equal(model.encoder.embedding.weight, backbone.decoder.embedding.tokens.weight)
    ours, theirs = model.encoder.blocks[0].feed_forward, backbone.decoder.blocks[0].feed_forward
    assert torch.equal(ours.input_proj.weight, theirs.input_proj.weight)


def test_the_backbone_is_frozen_after_loading_too(tmp_path: Path):
    model = retrofit(build(small_backbone()), small_config())
    save_model(model, tmp_path / "fitted")
    loaded = load_model(tmp_path / "fitted")
    learns = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == learns
    assert set(learns.values()) == {True, False}
    loaded.cross[0].requires_grad_(False)
    loaded.decoder.norm.requires_grad_(True)
    save_model(loaded, tmp_path / "changed")
    again = load_model(tmp_path / "changed")
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in loaded.parameters()]
    for learning in (True, False):  # all, and none: a model that is only used
        save_model(model.requires_grad_(learning), tmp_path / "plain")
        assert all(parameter.requires_grad for parameter in load_model(tmp_path / "plain").parameters())
    content = json.loads((tmp_path / "fitted" / "config.json").read_text())
    (tmp_path / "fitted" / "config.json").write_text(json.dumps({**content, "frozen": ["decodr"]}))
    with pytest.raises(MismatchError, match="names 'decodr' among the parts that are not trained"):
        load_model(tmp_path / "fitted")
