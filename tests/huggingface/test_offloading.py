"""A model of which transformers keeps most on disk computes what the whole model computes."""

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from transformers import AutoModelForCausalLM

from laws.families import random_tokens, small_config, small_model
from retentive.checkpoints import save_model
from retentive.huggingface import RetentiveForCausalLM, register
from retentive.models.registry import family_names

register()


CASES = [
    *((family, {}) for family in family_names()),
    ("transformer", {"positions": "learned", "max_positions": 64, "tie_embeddings": True}),
    ("rmt", {"backbone": small_config("retnet"), "causal_memory": True}),
]


@pytest.mark.parametrize(("family", "changes"), CASES, ids=[f"{family}-{len(changes)}" for family, changes in CASES])
def test_an_offloaded_model_is_the_whole_one(family: str, changes: dict, tmp_path: Path):
    ours = small_model(family, dtype=torch.float32, **changes)
    save_model(ours, tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = random_tokens(2, 7)
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    size = 4 * sum(parameter.numel() for parameter in ours.parameters())
    places = {"device_map": "auto", "max_memory": {"cpu": size * 3 // 4}, "offload_folder": tmp_path / "offloaded"}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, **places)
    assert any(parameter.is_meta for parameter in theirs.parameters())
    with torch.no_grad():
        assert torch.equal(theirs(tokens, attention_mask=mask).logits, whole(tokens, attention_mask=mask).logits)
        torch.testing.assert_close(theirs(tokens, labels=tokens).loss, whole(tokens, labels=tokens).loss)
    assert torch.equal(theirs.generate(tokens, max_new_tokens=3), whole.generate(tokens, max_new_tokens=3))


@pytest.mark.parametrize(("family", "changes"), CASES, ids=[f"{family}-{len(changes)}" for family, changes in CASES])
def test_a_model_that_is_offloaded_after_it_was_made_is_the_whole_one(family: str, changes: dict):
    tokens = random_tokens(2, 7)
    whole = RetentiveForCausalLM.of(small_model(family, **changes)).eval()
    theirs = RetentiveForCausalLM.of(small_model(family, **changes)).eval()
    cpu_offload(theirs, execution_device=torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(theirs(tokens, labels=tokens).logits, whole(tokens, labels=tokens).logits)
    assert torch.equal(theirs.generate(tokens, max_new_tokens=3), whole.generate(tokens, max_new_tokens=3))
    assert any(parameter.is_meta for parameter in theirs.parameters())


@pytest.mark.parametrize("recomputed_first", [False, True])
def test_recomputed_blocks_keep_what_accelerate_has_put_around_them(recomputed_first: bool):
    tokens = random_tokens(2, 7)
    whole = RetentiveForCausalLM.of(small_model("retnet")).train()
    expected = whole(tokens, labels=tokens).loss
    theirs = RetentiveForCausalLM.of(small_model("retnet")).train()
    moved: list[str] = []
    block = theirs.model.decoder.blocks[0]

    class Moves(ModelHook):
        """What moves a block's inputs to its device."""

        def pre_forward(self, module: torch.nn.Module, *args: object, **kwargs: object):
            moved.append(type(module).__name__)
            return args, kwargs

    if recomputed_first:
        theirs.gradient_checkpointing_enable()
    add_hook_to_module(block, Moves())
    if not recomputed_first:
        theirs.gradient_checkpointing_enable()
    recomputed = theirs(tokens, labels=tokens).loss
    assert moved == ["Block"]
    recomputed.backward()
    torch.testing.assert_close(recomputed, expected)
    theirs.gradient_checkpointing_disable()
    moved.clear()
    theirs(tokens, labels=tokens).loss.backward()
    assert moved == ["Block"]
    remove_hook_from_module(block)
    torch.testing.assert_close(theirs(tokens, labels=tokens).loss, expected)
    assert moved == ["Block"]
