"""Models of RETRO-pytorch by changing the import line: losses, neighbours, layers and the order of parameters."""

from typing import Any

import pytest
import torch

from compat.retro_pytorch.small import SIZES, VOCAB, made, tokens
from retentive.compat.retro_pytorch import RETRO
from retentive.compat.retro_pytorch.optimizer import get_optimizer

CLOSE = {"rtol": 0, "atol": 1e-10}


@pytest.mark.parametrize("changes", [{}, {"use_deepnet": True}, {"gated_rmsnorm": True, "enc_cross_attn_layers": (2,)}])
def test_a_loss_is_the_mean_over_real_labels_with_neighbours_or_without(changes: dict[str, Any]):
    model = made(**changes)
    seq, retrieved = tokens(2, 33), tokens(2, 4, 2, 16)
    seq[1, 20:] = 0
    for mode in (True, False):
        model.train(mode)
        for neighbours in (retrieved, None):
            loss = model(seq, neighbours, return_loss=True)
            logits = model(seq[:, :-1], neighbours)
            expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), seq[:, 1:].flatten(), ignore_index=0)
            torch.testing.assert_close(loss, expected, **CLOSE)
    loss.backward()


def test_neighbours_reach_what_follows_their_chunk_and_padding_is_nothing():
    model = made().eval()
    seq, retrieved = tokens(1, 32), tokens(1, 4, 2, 16)
    plain = model(seq)
    torch.testing.assert_close(model(seq, torch.zeros_like(retrieved)), plain, **CLOSE)
    changed = (model(seq, retrieved) - plain).abs().amax((0, 2))
    assert (changed[:7] == 0).all()
    assert (changed[7:] > 0).all()
    torch.testing.assert_close(model(seq, retrieved[:, :, 0]), model(seq, retrieved[:, :, :1]), **CLOSE)


def test_places_within_a_chunk_are_told_apart():
    # In their release all rows but the first of a chunk had the same angle.
    model = made(dec_depth=1, dec_cross_attn_layers=(1,)).eval()
    cross = model.model.cross[0].attention
    query = torch.ones(1, 8, 16, dtype=torch.float64)
    rotated = cross.query(query, torch.arange(8)[None] + 7, 16)
    assert len(rotated[0, 0].unique(dim=0)) == 8


def test_an_optimizer_has_the_order_of_the_model():
    model = RETRO(**SIZES)
    ordered = [parameter for group in get_optimizer(model.parameters()).param_groups for parameter in group["params"]]
    expected = sorted(model.parameters(), key=lambda parameter: parameter.ndim < 2)
    assert all(one is other for one, other in zip(ordered, expected, strict=True))


def test_layers_beyond_the_depth_are_absent_and_no_error():
    sizes = {**SIZES, "dec_depth": 4}
    del sizes["dec_cross_attn_layers"]
    assert RETRO(**sizes).model.config.cross_layers == (1, 3)
    assert RETRO(dec_depth=4, num_tokens=VOCAB).model.config.cross_layers == (1, 3)
    given = RETRO(**{**sizes, "dec_cross_attn_layers": (3, 1, 3, 9), "enc_cross_attn_layers": (2, 7)})
    assert given.model.config.cross_layers == (1, 3)
    assert given.model.config.encoder_cross_layers == (2,)
    seq, retrieved = tokens(1, 33), tokens(1, 4, 2, 16)
    for layers in ((5, 9), ()):  # nothing reads what was retrieved, there and here
        deaf = RETRO(**{**sizes, "dec_cross_attn_layers": layers}).eval()
        assert not deaf.reads_neighbours
        assert torch.equal(deaf(seq, retrieved, return_loss=True), deaf(seq, return_loss=True))
        assert deaf(seq[:, :9], tokens(1, 1, 2, 16)).shape == (1, 9, VOCAB)
