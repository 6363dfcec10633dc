"""States that do not fit are refused; those that fit go on."""

import dataclasses

import pytest
import torch

from laws.families import random_tokens
from models.rmt.small import RETNET, small_backbone, small_rmt
from retentive.errors import MismatchError
from retentive.models.registry import build
from retentive.models.retnet import RetNet
from retentive.models.rmt import RecurrentMemoryTransformer, rmt_small, rmt_tiny

OTHERS = [
    ({"num_memory_tokens": 3}, "its memory tokens: 3, the model's: 2; states pass between models of one config only"),
    ({"backbone": small_backbone(hidden_size=24)}, "its channels of a memory token: 24, the model's: 16"),
    ({"backbone": small_backbone(num_layers=3)}, "its layers of recalled tokens: 3, the model's: 2"),
    ({"backbone": small_backbone(num_kv_heads=2)}, r"its layers\[0\]: \('keys', 2, 4, 4\), the model's"),
    ({"backbone": RETNET, "causal_memory": True}, r"its layers\[0\]: \('retention', 2, 8, 16\), the mod"),
    ({"bidirectional": True}, "its layers: 0, the model's: 2"),
    ({"xl_length": 3}, "recalled tokens up to xl_length, at most 0 tokens here, but has 3"),
    ({"segment_length": 9}, "an unfinished segment below segment_length, at most 4 tokens here, but has 8"),
    ({"segment_length": 4}, r"segment_length = 5, after whose \[8, 8\] tokens other unfinished .* than 0; it is"),
]


@pytest.mark.parametrize(("changes", "message"), OTHERS)
def test_a_state_of_another_config_is_refused(changes: dict, message: str):
    state = small_rmt(**changes)(random_tokens(2, 8)).state
    with pytest.raises(MismatchError, match=message):
        small_rmt()(random_tokens(2, 3), state)


def test_an_associative_state_is_refused_by_tokens_and_the_other_way_round():
    tokens, associative = small_rmt(), small_rmt(memory="associative", associative_dim=4)
    with pytest.raises(MismatchError, match="its memory tokens: 0, the model's: 2"):
        tokens(random_tokens(1, 3), associative.initial_state(1))
    with pytest.raises(MismatchError, match="its memory tokens: 2, the model's: 0"):
        associative(random_tokens(1, 3), tokens.initial_state(1))
    other = small_rmt(memory="associative", associative_dim=5)
    with pytest.raises(MismatchError, match=r"associative memory: \(2, 30\), the model's: \(2, 24\)"):
        associative(random_tokens(1, 3), other.initial_state(1))


def test_a_state_of_another_family_is_refused():
    retnet = RetNet(RETNET).double()
    with pytest.raises(
        MismatchError, match="must be the RecurrentMemoryState of a recurrent memory, but is a ModelState"
    ):
        small_rmt()(random_tokens(1, 3), retnet(random_tokens(1, 3)).state)


def test_a_memory_of_another_width_is_refused():
    model = small_rmt()
    narrow = {"memory": torch.zeros(2, 2, 12).double(), "history": torch.zeros(2, 2, 0, 12).double()}
    state = dataclasses.replace(model.initial_state(2), **narrow)
    with pytest.raises(MismatchError, match="its channels of a memory token: 12, the model's: 16"):
        model(random_tokens(2, 3), state)


def test_ids_of_32_bits_are_read_like_those_of_64():
    model = small_rmt(token_shift=True)
    tokens = random_tokens(2, 8)
    first = model(tokens[:, :3].int())
    assert torch.equal(first.logits, model(tokens[:, :3]).logits)
    more = model(tokens[:, 3:].int(), first.state).logits
    torch.testing.assert_close(more, model(tokens).logits[:, 3:], rtol=0, atol=1e-12)


def test_the_state_is_as_small_at_the_millionth_token():
    model = small_rmt(xl_length=5)
    with torch.inference_mode():
        short = model(random_tokens(1, 23), logits_to_keep=0).state
        long = model(random_tokens(1, 5 * 400 + 3), logits_to_keep=0).state
    assert long.size_in_bytes == short.size_in_bytes


def test_the_small_sizes_are_those_of_the_other_families_and_a_memory():
    for config, millions in ((rmt_tiny(), 1), (rmt_small(), 12)):
        with torch.device("meta"):
            model = RecurrentMemoryTransformer(config)
            plain = build(config.backbone)
        memory = config.num_memory_tokens * config.decoder.embedding.hidden_size
        count = sum(parameter.numel() for parameter in model.parameters())
        assert count == sum(parameter.numel() for parameter in plain.parameters()) + memory
        assert count < millions * 1e6


def test_a_ragged_state_of_other_segments_is_refused():
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 6:] = False
    state = small_rmt(segment_length=6)(random_tokens(2, 8), mask=mask).state
    with pytest.raises(MismatchError, match=r"after whose \[8, 6\] tokens other .* would be left than \[2, 0\]"):
        small_rmt()(random_tokens(2, 3), state)


@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_an_associative_memory_of_large_weights_stays_finite(scale: float):
    for seed in range(6):
        torch.manual_seed(seed)
        model = small_rmt(seed, torch.float32, memory="associative", associative_dim=2 + seed % 4)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
        output = model(random_tokens(2, 5 * 40, seed), labels=random_tokens(2, 5 * 40, seed + 1))
        output.loss.backward()
        assert output.loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        assert all(memory.matrix.isfinite().all() for memory in output.state.associations)
