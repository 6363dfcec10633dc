"""YOCO: its prefill stops early, its layers share one cache, and its config refuses what means nothing."""

import pytest
import torch
from torch import Tensor, nn

from laws.families import random_tokens, small_config, small_model
from retentive import Yoco, YocoConfig, generate
from retentive.layers.mixers.key_value_cache import KeyValueState
from retentive.layers.mixers.shared_cache_attention import SharedCacheAttention
from retentive.models.yoco import yoco_small, yoco_tiny
from retentive.ops.attention import attention
from retentive.ops.rotary import rotate
from retentive.state import named_tensors
from without_hook import assert_refused


def columns_seen(model: nn.Module, kind: type[nn.Module]) -> list[int]:
    """Filled with the number of columns of each call to a layer of a kind."""
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, kind):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    return seen


@pytest.mark.parametrize("keep", [0, 1, 3, 11, 50, None])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("past", [0, 5])
def test_the_cross_decoder_reads_the_wanted_columns_alone(keep: int | None, padded: bool, past: int):
    model, tokens = small_model("yoco"), random_tokens(2, 11)
    mask = torch.arange(11) >= torch.tensor([[0], [4]]) if padded else None
    state = model(random_tokens(2, past, seed=1)).state if past else None
    every = model(tokens, state, mask=mask)
    seen = columns_seen(model, SharedCacheAttention)
    output = model(tokens, state, mask=mask, logits_to_keep=keep)
    wanted = 11 if keep is None else min(keep, 11)
    assert seen == [wanted] * 2 * (wanted > 0)
    if keep == 0:
        assert output.logits is None
    else:
        torch.testing.assert_close(output.logits, every.logits[:, -wanted:], rtol=0, atol=1e-12)
    for name, tensor in named_tensors(every.state).items():
        assert torch.equal(named_tensors(output.state)[name], tensor), name


def test_a_loss_needs_every_column():
    model, tokens = small_model("yoco"), random_tokens(2, 11)
    whole = model(tokens, labels=tokens).loss
    seen = columns_seen(model, SharedCacheAttention)
    torch.testing.assert_close(model(tokens, labels=tokens, logits_to_keep=0).loss, whole, rtol=0, atol=1e-12)
    assert seen == [11, 11]


def test_a_prompt_passes_the_cross_decoder_once():
    model = small_model("yoco")
    seen = columns_seen(model, SharedCacheAttention)
    generate(model, random_tokens(1, 40)[0], max_new_tokens=5)
    assert seen == [1, 1] * 5  # one column for each new token, in each of two layers


@pytest.mark.parametrize("layers", [2, 4, 6])
def test_there_is_one_cache_however_many_layers_read_it(layers: int):
    state = small_model("yoco", num_layers=layers)(random_tokens(2, 7)).state
    caches = [layer for layer in state.layers if isinstance(layer, KeyValueState)]
    assert len(caches) == 1
    assert state.layers[-1] is caches[0]
    assert caches[0].key.shape == (2, 4, 7, 4)


def test_the_model_is_the_equations_of_the_paper():
    """Every layer of the cross-decoder by hand: attention to the shared keys and values, then the feed-forward."""
    model, tokens = small_model("yoco", num_kv_heads=2), random_tokens(2, 9)
    assert isinstance(model, Yoco)
    decoder = model.decoder
    layout = decoder.layout(tokens, None)
    hidden = decoder.embed(tokens, layout)
    for block in decoder.blocks[:2]:
        hidden, _ = block(hidden, None, layout)
    tables = layout.rotary[model.config.cross_attention.rotary]

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, 4)).transpose(1, 2)

    key, value = model.key_values.key_value_proj(model.key_values.norm(hidden)).chunk(2, -1)
    key, value = rotate(heads(key), tables.cos, tables.sin), heads(value)
    for block in decoder.blocks[2:]:
        query = rotate(heads(block.mixer.query_proj(block.mixer_norm(hidden))), tables.cos, tables.sin)
        mixed = attention(query, key, value, causal=True)
        hidden = hidden + block.mixer.output_proj(mixed.transpose(1, 2).flatten(2))
        gate, up = block.feed_forward.input_proj(block.feed_forward_norm(hidden)).chunk(2, -1)
        hidden = hidden + block.feed_forward.output_proj(nn.functional.silu(gate) * up)
    expected = decoder.logits(decoder.norm(hidden))
    torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=1e-12)


def test_the_small_sizes_are_as_large_as_those_of_other_families():
    for preset, low, high in ((yoco_tiny, 0.8e6, 1e6), (yoco_small, 9e6, 11e6)):
        with torch.device("meta"):
            model = Yoco(preset())
        assert low < sum(parameter.numel() for parameter in model.parameters()) < high


IMPOSSIBLE = [
    ({"num_layers": 3}, "num_layers must be even and at least 2, half of them for each decoder, but is 3"),
    ({"num_layers": 0}, "num_layers must be even and at least 2, half of them for each decoder, but is 0"),
    ({"num_heads": 0}, "num_heads must be at least 1, but is 0"),
    ({"num_heads": 3}, "hidden_size must be a multiple of num_heads, but 16 / 3 is not whole; change one"),
    ({"self_num_heads": 5}, "hidden_size must be a multiple of self_num_heads, but 16 / 5 is not whole"),
    ({"num_heads": 16}, "even number of channels in a head, but key_dim is 1"),
    ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads, .* num_heads is 4 and num_kv_heads is 3"),
    ({"self_mixer": "lstm"}, "mixer must be one of retention, .*, but is 'lstm'"),
    ({"self_mixer": "attention"}, "self_mixer must have a state that stops growing, but 'attention' remembers every"),
    ({"self_mixer": "window_attention"}, "window must be a number of tokens for window_attention, but is None"),
    ({"window": 5}, "window means nothing to self_mixer='gated_retention', but is 5; leave it at None"),
    (
        {"self_mixer": "window_attention", "window": 5, "chunk_size": 8},
        "chunk_size means nothing to self_mixer='window_attention', but is 8; leave it at 64",
    ),
    ({"intermediate_size": 0}, "intermediate_size must be at least 1 channel, but is 0"),
    ({"dropout": 1.0}, "dropout must be at least 0 and below 1, but is 1.0"),
]


def test_impossible_configs_are_refused_when_made():
    sizes = {"vocab_size": 10, "hidden_size": 16, "num_layers": 2, "num_heads": 4}
    calls = [("retentive:YocoConfig", {**sizes, **changes}) for changes, _ in IMPOSSIBLE]
    assert_refused(calls, [pattern for *_, pattern in IMPOSSIBLE])


def test_the_feed_forward_has_the_papers_width():
    assert (
        YocoConfig(vocab_size=10, hidden_size=3072, num_layers=2, num_heads=24).decoder.feed_forward.intermediate_size
        == 8192
    )
    assert small_config("yoco", gated=False).decoder.feed_forward.intermediate_size == 64
