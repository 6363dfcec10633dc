"""An associative memory beside each block of a Hugging Face model computes what the native one does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor

from huggingface.recurrent_memory.small import (
    SIZES,
    VOCAB,
    around,
    backbone,
    check_generation,
    copied,
    tokens,
    with_lora,
)
from retentive.checkpoints.conversion import read_foreign
from retentive.errors import MismatchError
from retentive.huggingface import load_memory, save_memory
from retentive.models.rmt import RecurrentMemoryConfig, with_memory
from retentive.training.run.fit import fit
from retentive.training.step.config import OptimizerConfig

transformers = pytest.importorskip("transformers")

ASSOCIATIVE: dict[str, Any] = {"memory": "associative", "associative_dim": 4}
EXACT = {"rtol": 1e-10, "atol": 1e-10}
NEAR = {"rtol": 1e-4, "atol": 1e-5}
LLAMA = SIZES["LlamaForCausalLM"]


def remembering(model: Any, **changes: Any) -> Any:
    """A memory that has something to say: its values begin larger than in earnest."""
    made = around(model, **{**ASSOCIATIVE, **changes})
    with torch.no_grad():
        for memory in made.associations:
            memory.value_proj.weight.mul_(20)
    return made


def in_doubles(monkeypatch: pytest.MonkeyPatch, model: Any) -> Any:
    """The model in float64 throughout: transformers rotates, and takes roots of mean squares, in float32."""
    for part in model.modules():
        if type(part).__name__.endswith("RMSNorm"):
            monkeypatch.setattr(part, "forward", lambda x, part=part: _normalised(x, part))
        if type(part).__name__.endswith("RotaryEmbedding"):
            monkeypatch.setattr(part, "forward", lambda x, position_ids, part=part: _rotation(x, position_ids))
    return model.double()


def _normalised(x: Tensor, part: Any) -> Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + part.variance_epsilon).rsqrt() * part.weight


def _rotation(x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    half = LLAMA["hidden_size"] // LLAMA["num_attention_heads"] // 2
    frequencies = 10000 ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = (position_ids[..., None] * frequencies).repeat(1, 1, 2)
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize("normaliser", ["bounded", "published"])
def test_it_is_the_native_memory_in_logits_loss_and_gradients(
    name: str, normaliser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(SIZES, name, {**LLAMA, "head_dim": 8})
    theirs = backbone(name)
    theirs.save_pretrained(tmp_path)
    ours = read_foreign(tmp_path).model().double()
    wrapper = remembering(in_doubles(monkeypatch, theirs), associative_normaliser=normaliser)
    config = RecurrentMemoryConfig(
        backbone=ours.config,
        segment_length=5,
        num_memory_tokens=2,
        causal_memory=True,
        associative_normaliser=normaliser,
        **ASSOCIATIVE,
    )
    native = with_memory(ours, config).eval()
    learned = {n: w for n, w in wrapper.state_dict().items() if not n.startswith("backbone.")}
    assert native.load_state_dict(learned, strict=False).unexpected_keys == []
    text = tokens(3, 24)
    mask, starts = torch.ones_like(text, dtype=torch.bool), torch.zeros_like(text, dtype=torch.bool)
    mask[0, :3] = mask[1, 9:11] = False
    starts[1, [4, 11]] = True
    for options in ({}, {"mask": mask[:, 1:], "starts": starts[:, 1:]}):
        outputs = [model(text[:, :-1], labels=text[:, 1:], **options) for model in (native, wrapper)]
        torch.testing.assert_close(outputs[1].logits, outputs[0].logits, **EXACT)
        torch.testing.assert_close(outputs[1].loss, outputs[0].loss, **EXACT)
        torch.testing.assert_close(
            [one.matrix for one in outputs[1].state.associations],
            [one.matrix for one in outputs[0].state.associations],
            **EXACT,
        )
        for output in outputs:
            output.loss.backward()
        for path in learned:
            found, expected = wrapper.get_parameter(path).grad, native.get_parameter(path).grad
            torch.testing.assert_close(found, expected, **EXACT, msg=path)
            assert found.abs().max() > 1e-9, path
        native.zero_grad()
        wrapper.zero_grad()


@pytest.mark.parametrize("name", SIZES)
def test_any_split_padding_and_document_gives_what_one_call_gives(name: str):
    model, text = remembering(backbone(name)), tokens(2, 18)
    with torch.no_grad():
        whole = model(text)
        assert (whole.logits - around(backbone(name), num_memory_tokens=0)(text).logits).abs()[:, 5:].max() > 1e-3
        for cuts in ((1, 17), (5, 13), (4, 3, 11)):
            state, pieces = None, []
            for piece in text.split(cuts, 1):
                output = model(piece, state)
                state = output.state
                pieces.append(output.logits)
            torch.testing.assert_close(torch.cat(pieces, 1), whole.logits, **NEAR)
            torch.testing.assert_close(state.associations[1].matrix, whole.state.associations[1].matrix, **NEAR)
        # Two documents in a row, after padding, beside one that goes on; then tokens one by one.
        row = torch.cat((tokens(1, 2), text[:1, :7], text[1:, :9]), 1)
        mask, starts = torch.ones(2, 18, dtype=torch.bool), torch.zeros(2, 18, dtype=torch.bool)
        mask[0, :2], starts[0, [2, 9]] = False, True
        output = model(torch.cat((row, text[1:])), mask=mask, starts=starts)
        torch.testing.assert_close(output.logits[0, 2:9], model(text[:1, :7]).logits[0], **NEAR)
        torch.testing.assert_close(output.logits[0, 9:], whole.logits[1, :9], **NEAR)
        torch.testing.assert_close(output.logits[1], whole.logits[1], **NEAR)
        more, state = tokens(1, 4, seed=7), output.state
        for column in range(4):
            output = model(more[:, column : column + 1].repeat(2, 1), state)
            state = output.state
        after = model(torch.cat((text[1:, :9], more), 1)).logits[0, -1]
        torch.testing.assert_close(output.logits[0, -1], after, **NEAR)


def test_generation_is_what_reading_again_says_and_its_state_is_saved(tmp_path: Path):
    check_generation(remembering(backbone()), tmp_path)


@pytest.mark.parametrize("lora", [False, True])
def test_it_learns_alone_or_with_lora_and_is_saved(lora: bool, tmp_path: Path):
    bare = backbone()
    original = {name: weight.clone() for name, weight in bare.state_dict().items()}
    model = around(with_lora(bare) if lora else bare.requires_grad_(False), **ASSOCIATIVE)
    steps = fit(model, lambda number: copied(0), steps=30, optimizer=OptimizerConfig(learning_rate=0.03))
    assert steps[-1].loss < 0.9 * steps[0].loss
    trained = {name.replace("base_layer.", ""): weight for name, weight in bare.state_dict().items()}
    assert all(torch.equal(trained[name], weight) for name, weight in original.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in bare.modules())
    save_memory(model.eval(), tmp_path)
    x = tokens(2, 17)
    with torch.no_grad():
        torch.testing.assert_close(load_memory(backbone(), tmp_path)(x).logits, model(x).logits, rtol=0, atol=1e-6)
    other = backbone()
    with torch.no_grad():
        other.get_output_embeddings().weight.add_(0.1)
    with pytest.raises(MismatchError, match="must be the model that the memory was trained around"):
        load_memory(other, tmp_path)


def test_blocks_that_are_computed_again_recall_the_same(monkeypatch: pytest.MonkeyPatch):
    text, gradients = tokens(2, 14), list[Tensor]()
    for again in (False, True):
        model = remembering(backbone()).train()
        if again:
            model.backbone.gradient_checkpointing_enable()
            if Version(transformers.__version__) < Version("5.10"):  # which compute blocks again without their hooks
                with pytest.raises(ValueError, match="must not compute blocks again in the backward pass"):
                    model(text, labels=text)
                return
        model(text, labels=text).loss.backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.associations.parameters()]))
    torch.testing.assert_close(*gradients)
    block = type(model.backbone.model.layers[0])
    monkeypatch.setattr(block, "__call__", lambda self, *args, **given: torch.nn.Module.__call__(self, *args, **given))
    with pytest.raises(ValueError, match="must not compute blocks again in the backward pass"):
        model(text)


def test_what_no_associative_memory_can_stand_beside_is_refused_by_name():
    with pytest.raises(ValueError, match="num_memory_tokens must be at least 1 with memory='associative'"):
        around(backbone(), num_memory_tokens=0, **ASSOCIATIVE)
    with pytest.raises(ValueError, match="write_start means nothing with memory='associative'"):
        around(backbone(), write_start="learned", **ASSOCIATIVE)
    with pytest.raises(ValueError, match="memory_code means nothing with num_memory_tokens=0"):
        around(backbone(), num_memory_tokens=0, memory_code="sign")
    model = remembering(backbone())
    with pytest.raises(MismatchError, match="with 0 memory tokens of 16 channels"):
        model(tokens(1, 3), around(backbone()).initial_state(1))
    twice = remembering(backbone())
    twice.backbone.model.layers[1] = twice.backbone.model.layers[0]
    with pytest.raises(ValueError, match="must call each of its blocks once, in order"):
        remembering(twice.backbone)(tokens(1, 3))
    listless = backbone()
    listless.config.num_hidden_layers = 3
    with pytest.raises(ValueError, match="must have its 3 blocks in one list"):
        around(listless, **ASSOCIATIVE)
    compiled = torch.compile(backbone())
    with pytest.raises(ValueError, match="must not be compiled for an associative memory"):
        around(compiled, **ASSOCIATIVE)
    tight = around(backbone("GPT2LMHeadModel"), segment_length=30, **ASSOCIATIVE)  # no read memory: 32 columns
    assert tight(tokens(1, 31)).logits.shape == (1, 31, VOCAB)
