"""A memory around models of Hugging Face: without memory tokens they are as they were, with them like any model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from huggingface.recurrent_memory.small import (
    CLOSE,
    SIZES,
    VOCAB,
    around,
    backbone,
    check_generation,
    copied,
    tokens,
    with_lora,
)
from retentive import generate, load_state, save_state
from retentive.checkpoints.conversion import read_foreign
from retentive.data.batch import IGNORED
from retentive.errors import DamagedFileError, MismatchError
from retentive.huggingface import load_memory, save_memory
from retentive.huggingface.recurrent_memory.segment_cache import cached_sizes
from retentive.models.protocol import LanguageModel
from retentive.models.rmt import RecurrentMemoryConfig, with_memory
from retentive.training.run.fit import fit
from retentive.training.step.pieces import cut_text
from retentive.training.step.replay import replay
from retentive.training.step.unroll import unrolled
from without_hook import errors_of

transformers = pytest.importorskip("transformers")


def test_what_a_model_caches_is_found_by_a_call_and_nothing_else_is_passed_over():
    found = {name: cached_sizes(backbone(name)) for name in SIZES}
    heads = {"GPT2LMHeadModel": (2, 8, 8), "LlamaForCausalLM": (1, 8, 8), "GPTNeoXForCausalLM": (2, 8, 8)}
    assert found == {name: (sizes, sizes) for name, sizes in heads.items()} | {"MambaForCausalLM": ()}
    broken = backbone()
    broken.model.layers[1].mlp.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        cached_sizes(broken)


@pytest.mark.parametrize("write_start", ["memory", "learned"])
def test_the_memory_around_a_converted_decoder_is_the_same(write_start: str, tmp_path: Path):
    theirs = backbone()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = read_foreign(tmp_path / "theirs").model()
    wrapper = around(theirs.double(), write_start=write_start).double()
    config = RecurrentMemoryConfig(
        backbone=ours.config, segment_length=5, num_memory_tokens=2, write_start=write_start, causal_memory=True
    )
    native = with_memory(ours, config).double()
    assert {name for name, learned in native.named_parameters() if learned.requires_grad} == {
        f"memory.{name}" for name, _ in wrapper.memory.named_parameters()
    }
    native.memory.load_state_dict(wrapper.memory.state_dict())
    tokens = torch.randint(VOCAB, (2, 18))
    outputs = [model(tokens[:, :-1], labels=tokens[:, 1:]) for model in (native, wrapper)]
    close = {"rtol": 1e-4, "atol": 2e-6}  # transformers rotates in float32
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, **close)
    for output in outputs:
        output.loss.backward()
    for name, learned in wrapper.memory.named_parameters():
        torch.testing.assert_close(native.memory.get_parameter(name).grad, learned.grad, **close)


@pytest.mark.parametrize("name", SIZES)
def test_without_memory_one_segment_is_the_bare_model(name: str):
    model = backbone(name)
    x = tokens(2, 12)
    with torch.no_grad():
        found = around(model, segment_length=12, num_memory_tokens=0)(x).logits
        torch.testing.assert_close(found, model(x).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SIZES)
def test_any_split_into_calls_gives_what_one_call_gives(name: str):
    model = around(backbone(name))
    x = tokens(2, 18)
    with torch.no_grad():
        whole = model(x)
        for cuts in ((1, 17), (5, 13), (4, 3, 11), (18,)):
            state, pieces = None, []
            for piece in x.split(cuts, 1):
                output = model(piece, state)
                state = output.state
                pieces.append(output.logits)
            torch.testing.assert_close(torch.cat(pieces, 1), whole.logits, **CLOSE)
            torch.testing.assert_close(state.memory, whole.state.memory, **CLOSE)
            assert torch.equal(state.segment, x[:, 15:])
            assert state.position.tolist() == [18, 18]


def test_a_memory_reaches_over_segments_and_nothing_else_does():
    x = tokens(1, 15)
    other = x.clone()
    other[0, 1] = (x[0, 1] + 1) % VOCAB
    for slots, reached in ((2, True), (0, False)):
        model = around(backbone(), num_memory_tokens=slots)
        with torch.no_grad():
            change = (model(x).logits - model(other).logits).abs().amax((0, 2))
        assert (change[:1] == 0).all()
        assert bool((change[10:] > 0).all()) is reached


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("grad", [False, True])
def test_padding_and_documents_are_exact(name: str, grad: bool):
    model = around(backbone(name))
    first, second = tokens(1, 8, seed=3), tokens(1, 11, seed=4)
    row = torch.cat((tokens(1, 2), first, tokens(1, 1), second), 1)
    mask = torch.ones_like(row, dtype=torch.bool)
    mask[0, [0, 1, 10]] = False
    starts = torch.zeros_like(mask)
    starts[0, [2, 11]] = True
    alone = torch.cat((row, tokens(1, 22, seed=5)))
    masks = torch.cat((mask, torch.ones_like(mask)))
    begins = torch.cat((starts, torch.zeros_like(starts)))
    with torch.set_grad_enabled(grad):
        output = model(alone, mask=masks, starts=begins)
        torch.testing.assert_close(output.logits[:1, 2:10], model(first).logits, **CLOSE)
        torch.testing.assert_close(output.logits[:1, 11:], model(second).logits, **CLOSE)
        torch.testing.assert_close(output.logits[1:], model(alone[1:]).logits, **CLOSE)
        assert output.state.position.tolist() == [11, 22]
        # Rows stand at different places now; they go on as they would alone.
        more = tokens(2, 6, seed=6)
        after = model(more, output.state)
        expected = model(more[:1], model(second).state)
        torch.testing.assert_close(after.logits[:1], expected.logits, **CLOSE)
        torch.testing.assert_close(after.state.memory[:1], expected.state.memory, **CLOSE)
        none = model(more, output.state, mask=torch.zeros(2, 6, dtype=torch.bool))
        assert torch.equal(none.state.position, output.state.position)
        assert not none.logits.any()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("grad", [False, True])
def test_a_document_start_at_padding_is_that_of_the_next_token_in_this_call_or_a_later_one(name: str, grad: bool):
    model = around(backbone(name))
    first, second, third = tokens(1, 8, seed=3), tokens(1, 7, seed=4), tokens(1, 6, seed=5)
    pad = tokens(1, 1)
    row, other = torch.cat((first, pad, second, pad), 1), tokens(1, 17, seed=6)
    mask = torch.ones(2, 17, dtype=torch.bool)
    mask[0, [8, 16]] = False
    with torch.set_grad_enabled(grad):
        output = model(torch.cat((row, other)), mask=mask, starts=~mask)
        torch.testing.assert_close(output.logits[:1, :8], model(first).logits, **CLOSE)
        torch.testing.assert_close(output.logits[:1, 9:16], model(second).logits, **CLOSE)
        torch.testing.assert_close(output.logits[1:], model(other).logits, **CLOSE)
        assert output.state.position.tolist() == [0, 17]
        after = model(torch.cat((third, third)), output.state)
        torch.testing.assert_close(after.logits[:1], model(third).logits, **CLOSE)
        torch.testing.assert_close(after.logits[1:], model(third, model(other).state).logits, **CLOSE)


def columns_read(model: Any, call: Any) -> list[int]:
    """Columns of each call of the backbone."""
    read: list[int] = []
    model.initial_state(1)  # the first state reads a token to find out what is cached
    hook = model.backbone.register_forward_pre_hook(
        lambda module, args, given: read.append(given["inputs_embeds"].shape[1]), with_kwargs=True
    )
    with torch.no_grad():
        call()
    hook.remove()
    return read


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "GPTNeoXForCausalLM"])
def test_a_token_costs_the_same_wherever_it_stands_in_its_segment(name: str):
    model, x = around(backbone(name), segment_length=8), tokens(2, 9)
    with torch.no_grad():
        whole = model(x).logits
        state = model(x[:, :1]).state
    for column in range(1, 9):
        now: dict[str, Any] = {}
        (read,) = columns_read(model, lambda: now.update(output=model(x[:, column : column + 1], state)))  # noqa: B023
        assert read == {7: 3, 8: 3}.get(column, 1)  # where a segment ends or begins, memory is written or read
        state = now["output"].state
        torch.testing.assert_close(now["output"].logits[:, 0], whole[:, column], **CLOSE)


def test_rows_at_different_places_are_read_in_one_call_a_token():
    model = around(backbone())
    prompts = [tokens(1, 4)[0], tokens(1, 9, seed=2)[0], tokens(1, 11, seed=3)[0]]
    read = columns_read(model, lambda: generate(model, prompts, max_new_tokens=7))
    assert len(read) <= 3 + 7  # the longest prompt has three segments
    assert max(read[3:]) <= 3


def test_a_loss_is_the_mean_over_labels():
    model = around(backbone())
    x, labels = tokens(2, 13), tokens(2, 13, seed=1)
    labels[0, :9] = IGNORED
    full = model(x, labels=labels)
    expected = torch.nn.functional.cross_entropy(full.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(full.loss, expected, **CLOSE)
    only = model(x, labels=labels, logits_to_keep=0)
    assert only.logits is None
    torch.testing.assert_close(only.loss, expected, **CLOSE)
    assert model(x, logits_to_keep=3).logits.shape == (2, 3, VOCAB)
    assert model(x, labels=torch.full_like(labels, IGNORED)).loss == 0


def test_replay_gives_the_gradient_of_the_plain_loss():
    model = around(backbone())
    pieces = cut_text(model, tokens(2, 20), tokens(2, 20, seed=1), length=5)
    loss, _ = unrolled(pieces, None)
    loss.backward()
    expected = model.memory.initial.grad.clone()
    assert expected.abs().max() > 0
    model.zero_grad()
    replay(pieces, None)
    torch.testing.assert_close(model.memory.initial.grad, expected, rtol=1e-4, atol=1e-6)


WINDOWED = {
    "MistralConfig": {"sliding_window": 8},
    "Gemma2Config": {"sliding_window": 8, "head_dim": 8},
    "GPTNeoConfig": {"window_size": 8, "attention_types": [[["global", "local"], 1]], "num_layers": 2},
}


@pytest.mark.parametrize("name", WINDOWED)
def test_a_backbone_whose_attention_ends_within_a_segment_is_refused(name: str):
    sizes = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if name != "GPTNeoConfig":
        sizes |= {"intermediate_size": 20, "num_key_value_heads": 1}
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = getattr(transformers, name)(**{**sizes, **special, **WINDOWED[name]})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(
        ValueError, match=r"must have attention over a whole segment and its memory, 9 columns, but .*=8"
    ):
        around(model)
    around(model, segment_length=3)  # 7 columns


def test_streamed_windows_train_it_too():
    model = around(backbone().requires_grad_(False))
    steps = fit(model, copied, steps=2, carries_state=True, windows_per_graph=2)
    # The second step goes on from a memory that is a constant to it, and nothing else learns.
    assert [step.gradient_norm > 0 for step in steps] == [True, False]
    model = around(with_lora(backbone()), write_start="learned")
    steps = fit(model, copied, steps=2, carries_state=True, windows_per_graph=2)
    assert all(step.gradient_norm > 0 for step in steps)


def test_generation_is_what_reading_again_says(tmp_path: Path):
    check_generation(around(backbone()), tmp_path)


def test_it_is_a_language_model_with_its_own_config():
    model = around(backbone("GPT2LMHeadModel"))
    assert isinstance(model, LanguageModel)
    assert (model.vocab_size, model.config.segment_length, model.longest_text) == (VOCAB, 5, None)
    assert {id(parameter) for parameter in model.optional_parameters()} == {
        id(parameter) for parameter in model.memory.parameters()
    }


def test_a_state_of_a_nested_config_still_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = around(backbone())
    state = model(tokens(2, 7)).state

    def nested(config: Any) -> dict[str, Any]:
        memory = {name: value for name, value in asdict(config).items() if name.startswith(("segment", "num", "write"))}
        return {"family": config.family, "memory": memory, "decoder": {"num_layers": 1}}

    with monkeypatch.context() as earlier:
        earlier.setattr("retentive.checkpoints.states.config_to_dict", nested)
        save_state(state, tmp_path / "state.safetensors", model)
    again = load_state(tmp_path / "state.safetensors", model)
    assert torch.equal(again.memory, state.memory)
    assert torch.equal(again.segment, state.segment)
    with pytest.raises(MismatchError, match="segment_length is 5 there and 6 here"):
        load_state(tmp_path / "state.safetensors", around(backbone(), segment_length=6))


def test_a_memory_of_signs_is_signs():
    model = around(backbone(), memory_code="sign")
    assert set(model(tokens(1, 10)).state.memory.detach().unique().tolist()) == {-1.0, 1.0}


def test_what_cannot_be_is_refused(tmp_path: Path):
    home = "retentive.huggingface:HuggingFaceMemoryConfig"
    found = errors_of(
        [
            (home, {"segment_length": 0, "num_memory_tokens": 1}),
            (home, {"segment_length": 4, "num_memory_tokens": -1}),
            (home, {"segment_length": 4, "num_memory_tokens": 1, "memory_flips": 0.1}),
        ]
    )
    messages = ("segment_length must be at least 1 token", "num_memory_tokens must be at least 0", "memory_flips turn")
    for (error, text), message in zip(found, messages, strict=True):
        assert error == "ValueError"
        assert message in text
    with pytest.raises(ValueError, match="must be at most the model's 32 positions, but are 34"):
        around(backbone("GPT2LMHeadModel"), segment_length=30)
    model = around(backbone())
    with pytest.raises(MismatchError, match=r"with 2 memory tokens of 16 channels, but is a .* of \(3, 16\)"):
        model(tokens(1, 3), around(backbone(), num_memory_tokens=3).initial_state(1))
    length = model.config.segment_length
    with pytest.raises(MismatchError, match=f"its segment_length: 9, the model's: {length}"):
        model(tokens(1, 3), around(backbone(), segment_length=9).initial_state(1))
    with pytest.raises(ValueError, match=r"must be frozen for its memory to be saved alone, but lm_head.weight"):
        save_memory(model, tmp_path)
    model.backbone.requires_grad_(False)
    save_memory(model, tmp_path)
    with pytest.raises(MismatchError, match="must be the model that the memory was trained around"):
        load_memory(backbone("GPT2LMHeadModel"), tmp_path)
    (tmp_path / "memory.json").write_text("{}")
    with pytest.raises(DamagedFileError, match=r"memory.json is not what save_memory writes"):
        load_memory(backbone(), tmp_path)
    with pytest.raises(FileNotFoundError, match="must be the folder of a saved memory"):
        load_memory(backbone(), tmp_path / "nowhere")
