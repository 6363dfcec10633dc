"""Text is written from the cache of the unfinished segment, and is what reading everything again would give."""

from pathlib import Path

import pytest
import torch

from laws.families import case_name, random_tokens
from models.rmt.small import RETNET, small_backbone, small_rmt
from retentive import generate, load_state, save_state, stream
from retentive.models.rmt import RecurrentMemoryTransformer

SEGMENT = 5
NEW = 3 * SEGMENT + 7
PROMPTS = [1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 3]
VARIANTS = [
    {},
    {"xl_length": 5, "xl_layer_above": True, "token_shift": True},
    {"memory": "associative", "associative_dim": 4},
    {"backbone": RETNET, "causal_memory": True, "read_first": False},
    {"backbone": small_backbone(positions="learned", max_positions=SEGMENT), "memory_code": "sign"},
]


def uncached(model: RecurrentMemoryTransformer, prompt: torch.Tensor) -> list[int]:
    """Greedy tokens, each after reading the whole text from its begin."""
    text = prompt[None]
    for _ in range(NEW):
        text = torch.cat((text, model(text, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)), 1)
    return text[0, len(prompt) :].tolist()


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
@pytest.mark.parametrize("length", PROMPTS)
def test_cached_equals_uncached(changes: dict, length: int):
    model = small_rmt(**changes)
    prompt = random_tokens(1, length, seed=length)[0]
    assert generate(model, prompt, max_new_tokens=NEW).tokens[0].tolist() == uncached(model, prompt)


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_prompts_of_all_lengths_side_by_side(changes: dict):
    model = small_rmt(**changes)
    prompts = [random_tokens(1, length, seed=length)[0] for length in PROMPTS]
    together = generate(model, prompts, max_new_tokens=NEW).tokens
    for prompt, tokens in zip(prompts, together, strict=True):
        assert tokens.tolist() == uncached(model, prompt)


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
@pytest.mark.parametrize("stop", [1, SEGMENT, 2 * SEGMENT + 1])
def test_saved_loaded_and_gone_on(changes: dict, stop: int, tmp_path: Path):
    model = small_rmt(**changes)
    prompt = random_tokens(2, 7)
    whole = generate(model, prompt, max_new_tokens=NEW).tokens
    first = generate(model, prompt, max_new_tokens=stop)
    save_state(first.state, tmp_path / "state.safetensors", model)
    state = load_state(tmp_path / "state.safetensors", model)
    rest = generate(model, max_new_tokens=NEW - stop, state=state).tokens
    for row in range(2):
        assert torch.equal(torch.cat((first.tokens[row], rest[row])), whole[row])


def test_a_new_token_is_read_once():
    """Not with its whole segment, nor with the memory but at the segment's borders."""
    model = small_rmt(segment_length=16, num_memory_tokens=4)
    columns = []
    model.decoder.blocks[0].register_forward_pre_hook(lambda _, inputs: columns.append(inputs[0].shape[1]))
    generate(model, random_tokens(1, 3), max_new_tokens=64)
    # 66 tokens are read, 5 read blocks and 4 write blocks around them; reading all again would take over a thousand.
    assert sum(columns) == 66 + 5 * 4 + 4 * 4
    assert max(columns[1:]) <= 1 + 4


def test_the_cache_is_bounded_by_the_segment():
    model = small_rmt(xl_length=5)
    sizes = []
    tokens = stream(model, random_tokens(1, 2), max_new_tokens=60)
    for _ in tokens:
        sizes.append(tokens.state.size_in_bytes)
    assert max(sizes[10:]) == max(sizes[-10:]) == max(sizes[30:40])
