"""Scripts of recurrent-memory-transformer-pytorch run by changing the import line, and what was wrong is fixed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from laws.families import enlarged
from retentive.compat.recurrent_memory_transformer_pytorch import (
    RecurrentMemoryTransformer,
    RecurrentMemoryTransformerWrapper,
)
from retentive.errors import MismatchError
from without_hook import errors_of

SIZES: dict[str, Any] = {
    "dim": 16,
    "num_tokens": 23,
    "depth": 2,
    "num_memory_tokens": 3,
    "seq_len": 6,
    "dim_head": 8,
    "heads": 2,
}


def made(**changes: Any) -> RecurrentMemoryTransformer:
    torch.manual_seed(0)
    return enlarged(RecurrentMemoryTransformer(**{**SIZES, **changes}).double())


def tokens(batch: int, time: int) -> Tensor:
    return torch.randint(23, (batch, time), generator=torch.Generator().manual_seed(1))


CLOSE = {"rtol": 0, "atol": 1e-10}
VARIANTS = [
    {},
    {"use_xl_memories": False},
    {"abs_pos_emb": False, "rotary_pos_emb": True, "xl_mem_len": 4, "enhanced_xl_recurrence": True},
    {"memory_not_causal": False},
    {"always_have_read_memories": False},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_segments_by_hand_are_what_the_wrapper_reads(changes: dict[str, Any]):
    model = made(**changes)
    x = tokens(2, 15)
    memories, recalled, pieces = None, None, []
    for segment in x.split(6, dim=-1):
        logits, memories, recalled = model(segment, memories, xl_memories=recalled)
        pieces.append(logits)
    together, last = RecurrentMemoryTransformerWrapper(model)(x)
    torch.testing.assert_close(torch.cat(pieces, 1), together, **CLOSE)
    torch.testing.assert_close(memories, last, **CLOSE)
    assert memories.shape == (2, 3, 16)
    if changes.get("use_xl_memories", True):
        assert [layer.shape for layer in recalled] == [(2, 3, 16)] * 2  # the last segment has three tokens
    else:
        assert recalled is None


def test_memories_of_one_row_serve_all():
    model = made()
    x = tokens(2, 6)
    _, memories, _ = model(x)
    logits, _, _ = model(x, memories[0])
    expected, _, _ = model(x[:1], memories[:1])
    torch.testing.assert_close(logits[:1], expected, **CLOSE)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("truncate", [None, 2])
def test_replay_gives_the_gradient_of_the_plain_loss(changes: dict[str, Any], truncate: int | None):
    model = made(**changes).train()
    wrapper = RecurrentMemoryTransformerWrapper(model, truncate_at_step=truncate)
    x = tokens(2, 20)
    loss, _ = wrapper(x, return_loss=True)
    loss.backward()
    expected = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    replayed = wrapper(x, memory_replay_backprop=True, mrbp_loss_weight=0.5)
    torch.testing.assert_close(replayed, 0.5 * loss.detach(), **CLOSE)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        if gradient is not None and gradient.abs().max() > 0:
            torch.testing.assert_close(parameter.grad, 0.5 * gradient, **CLOSE)


def test_the_loss_is_the_mean_over_labels_and_given_labels_count():
    model = made()
    wrapper = RecurrentMemoryTransformerWrapper(model)
    x = tokens(2, 16)
    logits, _ = wrapper(x[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
    loss, _ = wrapper(x, return_loss=True)
    torch.testing.assert_close(loss, expected, **CLOSE)
    labels = torch.full_like(x, -1)
    labels[:, -1] = 3  # only in the last segment: the others have none at all
    loss, _ = wrapper(x, return_loss=True, labels=labels)
    logits, _ = wrapper(x)
    expected = torch.nn.functional.cross_entropy(logits[:, -1], labels[:, -1])
    torch.testing.assert_close(loss, expected, **CLOSE)
    once, _, _ = model(x[:, :6], labels=labels[:, -6:])
    expected = torch.nn.functional.cross_entropy(logits[:, 5], labels[:, -1])
    torch.testing.assert_close(once, expected, **CLOSE)


def test_padding_changes_no_loss():
    wrapper = RecurrentMemoryTransformerWrapper(made())
    x = tokens(1, 13)
    expected, _ = wrapper(x, return_loss=True)
    _, memories = wrapper(x)
    mask = torch.cat((torch.ones(1, 13), torch.zeros(1, 5)), 1).bool()
    padded = torch.cat((x, tokens(1, 5)), 1)
    loss, after = wrapper(padded, mask=mask, return_loss=True)
    torch.testing.assert_close(loss, expected, **CLOSE)
    torch.testing.assert_close(after, memories, **CLOSE)


def test_generation_is_what_reading_again_says():
    model = made()
    wrapper = RecurrentMemoryTransformerWrapper(model)
    prime = tokens(2, 8)
    new = wrapper.generate(prime, length=20, temperature=0.0)
    assert new.shape == (2, 12)
    logits, _ = wrapper(torch.cat((prime, new), 1))
    assert torch.equal(logits[:, 7:-1].argmax(-1), new)
    _, memories = wrapper(prime)
    later = wrapper.generate(prime, length=12, memories=memories)
    assert later.shape == (2, 4)
    assert wrapper.generate(prime, length=8).shape == (2, 0)
    with pytest.raises(ValueError, match="length must be at least that of prime, 8 tokens, but is 7"):
        wrapper.generate(prime, length=7)


def test_an_encoder_reads_both_ways():
    model = made(causal=False)
    x = tokens(1, 6)
    other = x.clone()
    other[0, -1] = (x[0, -1] + 1) % 23
    assert not torch.allclose(model(x)[0][:, 0], model(other)[0][:, 0])
    with pytest.raises(ValueError, match="generate needs a model with causal=True"):
        RecurrentMemoryTransformerWrapper(model).generate(x, length=9)


def test_arguments_without_a_meaning_are_refused_by_name():
    home = "retentive.compat.recurrent_memory_transformer_pytorch:RecurrentMemoryTransformer"
    cases = [
        ({"num_residual_streams": 4}, "num_residual_streams must be 1, but is 4"),
        ({"rotary_pos_emb": True}, "exactly one of abs_pos_emb and rotary_pos_emb must be True"),
        ({"abs_pos_emb": False}, "exactly one of abs_pos_emb and rotary_pos_emb must be True"),
        (
            {"use_xl_memories": False, "xl_mem_len": 3},
            "xl_mem_len must be None, but is 3: nothing is recalled with use_xl_memories=False",
        ),
        (
            {"use_xl_memories": False, "enhanced_xl_recurrence": True},
            "enhanced_xl_recurrence must be False, but is True: nothing is recalled",
        ),
        ({"causal": False, "memory_not_causal": False}, "memory_not_causal must be True, but is False"),
        ({"add_write_to_next_write_mem": True}, "add_write_to_next_write_mem must be False, but is True: there the"),
        ({"xl_mem_len": 7}, "xl_length must be from 0 to segment_length = 6"),
    ]
    found = errors_of([(home, {**SIZES, **changes}) for changes, _ in cases])
    for (changes, message), (error, text) in zip(cases, found, strict=True):
        assert error == "ValueError", changes
        assert message in text, changes
    model = made()
    with pytest.raises(ValueError, match="at most seq_len = 6 tokens, but has 7"):
        model(tokens(1, 7))
    with pytest.raises(ValueError, match="mask_out_read_memories must be False"):
        model(tokens(1, 6), mask_out_read_memories=True)
    with pytest.raises(ValueError, match="labels must be None"):
        RecurrentMemoryTransformerWrapper(model)(tokens(1, 6), labels=tokens(1, 6))


@pytest.mark.parametrize("name", ["layers.0.0.null_kv", "read_memory_emb", "layers.1.0.to_value_residual_mix.0.weight"])
def test_weights_of_the_package_itself_are_refused_by_name(name: str):
    model = made()
    assert not any(model.load_state_dict(model.state_dict()))
    part = next(part for part in name.split(".") if "_" in part)
    with pytest.raises(MismatchError, match=f"must be of this library's model, but has {part}, which only"):
        model.load_state_dict({**model.state_dict(), name: torch.zeros(1)})


def test_what_stands_on_the_wrapped_model_is_refused():
    """Theirs calls it segment by segment, ours reads past it."""
    wrapper = RecurrentMemoryTransformerWrapper(made())
    wrapper.transformer.register_forward_hook(lambda _, __, output: output)
    for call in (wrapper, lambda x: wrapper(x, return_loss=True), lambda x: wrapper.generate(x, length=12)):
        with pytest.raises(ValueError, match=r"transformer must do nothing more in calls .* put it on"):
            call(tokens(1, 9))
