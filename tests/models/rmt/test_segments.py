"""How a text is cut into segments, and what each of them sees."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laws.equality import assert_close_states
from laws.families import VOCAB, case_name, random_tokens
from models.rmt.small import RETNET, small_backbone, small_rmt
from retentive.layers.batch_layout import rotary_by_config
from retentive.models.rmt import segment_layout
from retentive.models.rmt.segment_layout import Past, SegmentLayoutBuilder
from retentive.models.rmt.segment_parts import even_plan
from retentive.models.transformer import Transformer
from retentive.state import named_tensors

VARIANTS = [
    {},
    {"xl_length": 5, "xl_gradient": "states"},
    {"xl_length": 3, "xl_gradient": "none"},
    {"xl_length": 5, "xl_gradient": "none", "backbone": small_backbone(positions="learned", max_positions=5)},
    {"num_memory_tokens": 0, "xl_length": 3},
    {"write_start": "learned", "read_first": False},
    {"memory": "associative", "associative_dim": 4},
    {"backbone": RETNET, "causal_memory": True},
    {"bidirectional": True, "xl_length": 4},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_segment_by_segment_equals_the_whole(changes: dict):
    model = small_rmt(**changes)
    tokens = random_tokens(2, 23)
    whole = model(tokens)
    state, logits = None, []
    for begin in range(0, 23, 5):
        output = model(tokens[:, begin : begin + 5], state)
        state = output.state
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), whole.logits, rtol=0, atol=1e-12)
    assert_close_states(state, whole.state, atol=1e-12)


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_the_gradient_of_a_call_is_that_of_its_segments(changes: dict):
    model, tokens, labels = small_rmt(**changes), random_tokens(2, 20), random_tokens(2, 20, seed=1)
    model(tokens, labels=labels).loss.backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    state, losses = None, []
    for begin in range(0, 20, 5):
        output = model(tokens[:, begin : begin + 5], state, labels=labels[:, begin : begin + 5])
        state = output.state
        losses.append(output.loss)
    torch.stack(losses).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "changes",
    [*VARIANTS, {"causal_memory": True, "num_memory_tokens": 3}, {"xl_length": 2, "xl_layer_above": True}],
    ids=case_name,
)
@torch.no_grad()
def test_reading_without_logits_leaves_the_same_state(changes: dict):
    model, tokens = small_rmt(**changes), random_tokens(2, 23)
    for time in (3, 15, 23):
        for cut in (0, 2, 7):
            state = model(tokens[:, :cut]).state if cut else None
            whole = named_tensors(model(tokens[:, cut : cut + time], state).state)
            found = named_tensors(model(tokens[:, cut : cut + time], state, logits_to_keep=0).state)
            last = model(tokens[:, cut : cut + time], state, logits_to_keep=1)
            assert whole.keys() == found.keys() == named_tensors(last.state).keys()
            for name, tensor in whole.items():
                torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-12, msg=name)


def test_the_last_block_computes_no_text_that_nobody_wants():
    model, columns = small_rmt(num_memory_tokens=3, causal_memory=True), list[int]()
    model.decoder.blocks[-1].feed_forward.register_forward_pre_hook(
        lambda module, inputs: columns.append(inputs[0].shape[1])
    )
    with torch.no_grad():
        model(random_tokens(1, 13), logits_to_keep=1)
        model(random_tokens(1, 10), logits_to_keep=0)
        model(random_tokens(1, 10), labels=random_tokens(1, 10))
        model.train()(random_tokens(1, 10), logits_to_keep=0)
    model.eval()(random_tokens(1, 5), logits_to_keep=0)
    # Segments of 5, between memories of 3; the unfinished one writes none yet.
    assert columns == [3, 3, 3 + 3, 3, 3, 11, 11, 11, 11, 11]


@given(cuts=st.sets(st.integers(1, 22), max_size=6))
@settings(deadline=None, max_examples=6)
def test_an_encoders_memory_is_the_same_however_calls_are_cut(cuts: set[int]):
    model = small_rmt(bidirectional=True, xl_length=3)
    tokens = random_tokens(2, 23)
    whole = model(tokens)
    state = None
    bounds = [0, *sorted(cuts), 23]
    for begin, end in itertools.pairwise(bounds):
        output = model(tokens[:, begin:end], state)
        state = output.state
        # What a token sees is what its segment holds when the call ends.
        torch.testing.assert_close(output.logits, model(tokens[:, :end]).logits[:, begin:], rtol=0, atol=1e-12)
    assert_close_states(state, whole.state, atol=1e-12)


def test_an_encoder_sees_both_ways_within_a_segment_and_back_beyond_it():
    model = small_rmt(bidirectional=True)
    tokens = random_tokens(1, 15)
    other = tokens.clone()
    other[0, 7] = (other[0, 7] + 1) % VOCAB
    changed = (model(tokens).logits != model(other).logits).any(-1)[0]
    assert changed.tolist() == [False] * 5 + [True] * 10


def test_the_write_slots_start_from_the_memory_that_was_read():
    # With blocks that add nothing, what is written is what was read, normalised: the identity that memory rides on.
    model = small_rmt()
    with torch.no_grad():
        for block in model.decoder.blocks:
            block.mixer.output_proj.weight.zero_()
            block.feed_forward.output_proj.weight.zero_()
    memory = model(random_tokens(1, 15)).state.memory
    expected = model.decoder.norm(model.decoder.norm(model.decoder.norm(model.memory.initial)))
    torch.testing.assert_close(memory[0], expected, rtol=0, atol=1e-12)


def test_the_fact_reaches_the_next_segments_through_the_memory_alone():
    for changes, reaches in (({}, True), ({"num_memory_tokens": 0}, False)):
        model = small_rmt(**changes)
        tokens = random_tokens(1, 25)
        other = tokens.clone()
        other[0, 2] = (other[0, 2] + 1) % VOCAB
        assert torch.equal(model(tokens).logits[0, 5:], model(other).logits[0, 5:]) is not reaches


def test_one_layer_with_a_segment_of_recall_is_a_transformer_over_two_segments():
    # So rotation sees true distances across the border of segments, and what is recalled is text and nothing else.
    model = small_rmt(backbone=small_backbone(num_layers=1), num_memory_tokens=0, xl_length=5)
    plain = Transformer(small_backbone(num_layers=1)).double()
    plain.load_state_dict(model.state_dict())
    tokens = random_tokens(2, 20)
    logits = model(tokens).logits
    for begin in range(5, 20, 5):
        expected = plain(tokens[:, begin - 5 : begin + 5]).logits[:, 5:]
        torch.testing.assert_close(logits[:, begin : begin + 5], expected, rtol=0, atol=1e-12)


SHIFTED = [{}, {"xl_length": 5}, {"xl_length": 3, "causal_memory": True}, {"bidirectional": True, "xl_length": 5}]


@pytest.mark.parametrize("changes", SHIFTED, ids=case_name)
def test_shifting_a_segment_changes_nothing(changes: dict, monkeypatch: pytest.MonkeyPatch):
    model, tokens = small_rmt(**changes), random_tokens(2, 12, seed=3)
    state = model(random_tokens(2, 10)).state
    expected = model(tokens, state).logits
    later = dataclasses.replace(state, position=state.position + 500)
    assert torch.equal(model(tokens, later).logits, expected)
    # Columns stand as [recalled][read memory][text][write memory]; moved together they see what they saw, and if one
    # part alone is moved, as text is by positions that count from the document's begin, then they do not.
    recalled, reads, writes = state.history.shape[2], 2, 0 if changes.get("bidirectional") else 2
    parts = {"all": (0, recalled + reads + 5 + writes), "read": (recalled, reads), "text": (recalled + reads, 5)}
    parts |= {"recalled": (0, recalled)} if recalled else {}
    parts |= {"write": (recalled + reads + 5, writes)} if writes else {}
    for part, (begin, width) in parts.items():

        def moved(positions: Tensor, *others: Any, begin: int = begin, end: int = begin + width) -> Any:
            columns = positions.shape[1]
            places = torch.arange(columns) + (0 if columns == recalled else recalled)
            return rotary_by_config(positions + 500 * ((begin <= places) & (places < end)), *others)

        monkeypatch.setattr(segment_layout, "rotary_by_config", moved)
        error = (model(tokens[:, :10], state).logits - expected[:, :10]).abs().max()
        assert error < 1e-9 if part == "all" else error > 1e-2, part


def test_without_memory_every_segment_is_read_alike():
    model = small_rmt(num_memory_tokens=0)
    tokens = random_tokens(1, 5)
    logits = model(tokens.repeat(1, 4)).logits.view(4, 5, VOCAB)
    torch.testing.assert_close(logits, logits[:1].expand(4, -1, -1), rtol=0, atol=1e-12)


def test_positions_tell_true_distances_beside_memory_and_recall():
    model = small_rmt(xl_length=4)
    part = even_plan(random_tokens(1, 5), torch.zeros(1, dtype=torch.long), 0, 5).parts[0]
    builder = SegmentLayoutBuilder(model.config, model.decoder.rotary, torch.float64)
    made = builder.build(part, Past(recalled=3), keep=False)
    assert (made.reads, made.texts, made.writes) == (2, 5, 2)
    # Read memory, (room for) what is recalled, text, write memory: one after the other.
    assert made.layout.positions.tolist() == [[0, 1, 6, 7, 8, 9, 10, 11, 12]]
    (tables,) = made.recalled.values()
    for recalled, position in enumerate((3, 4, 5)):
        expected = torch.tensor(float(position), dtype=torch.float64).cos()
        torch.testing.assert_close(tables.cos[0, recalled, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal_memory", [False, True])
def test_who_sees_whom(causal_memory: bool):
    model = small_rmt(causal_memory=causal_memory)
    part = even_plan(random_tokens(1, 5), torch.zeros(1, dtype=torch.long), 0, 5).parts[0]
    builder = SegmentLayoutBuilder(model.config, model.decoder.rotary, torch.float64)
    sight = builder.build(part, Past(), keep=False).layout.attention_mask
    order = torch.ones(9, 9, dtype=torch.bool).tril()
    if causal_memory:
        assert sight.bias is None  # each up to itself, which needs no mask
    else:
        order[0, 1] = order[7, 8] = True
        assert torch.equal(sight.bias[0, 0], torch.where(order, 0.0, -torch.inf).double())
    assert sight.allowed is None


def test_a_memory_given_by_the_caller_is_read_and_left_alone():
    model = small_rmt()
    tokens = random_tokens(2, 7)
    state = model.initial_state(2)
    given = torch.randn(2, 2, 16, dtype=torch.float64)
    before = given.clone()
    output = model(tokens, dataclasses.replace(state, memory=given), labels=tokens)
    assert not torch.equal(output.logits, model(tokens).logits)
    output.loss.backward()
    assert torch.equal(given, before)
    assert given.grad is None
    assert not given.requires_grad


@pytest.mark.parametrize("changes", [*VARIANTS, {"memory_code": "sign"}], ids=case_name)
@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=5)
def test_the_memory_of_a_finished_row_is_frozen(changes: dict, seed: int):
    model = small_rmt(**changes)
    lengths = torch.randint(1, 24, (3,), generator=torch.Generator().manual_seed(seed))
    tokens = random_tokens(3, 23, seed)
    output = model(tokens, mask=torch.arange(23) < lengths[:, None])
    summary = model.summarise(output.state)
    for row, length in enumerate(lengths.tolist()):
        alone = model(tokens[row : row + 1, :length])
        torch.testing.assert_close(output.logits[row : row + 1, :length], alone.logits, rtol=0, atol=1e-11)
        torch.testing.assert_close(output.state.memory[row], alone.state.memory[0], rtol=0, atol=1e-11)
        torch.testing.assert_close(summary[row], model.summarise(alone.state)[0], rtol=0, atol=1e-11)
    # Rows of nothing but padding stay as they are.
    again = model(tokens[:, :3], output.state, mask=torch.zeros(3, 3, dtype=torch.bool))
    more = random_tokens(3, 6, seed + 1)
    torch.testing.assert_close(model(more, again.state).logits, model(more, output.state).logits, rtol=0, atol=1e-11)


@pytest.mark.parametrize("changes", [{}, {"write_start": "learned"}, {"bidirectional": True}], ids=case_name)
def test_the_summary_is_the_memory_of_a_segment_that_ends_here(changes: dict):
    model, shorter = small_rmt(**changes), small_rmt(segment_length=2, **changes)
    tokens = random_tokens(2, 12)
    full, unfinished = model(tokens[:, :10]).state, model(tokens).state
    assert torch.equal(model.summarise(full), full.memory)
    before = dataclasses.replace(shorter.initial_state(2), memory=full.memory)
    expected = shorter(tokens[:, 10:], before).state.memory
    torch.testing.assert_close(model.summarise(unfinished), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backbone", [small_backbone(), RETNET], ids=["attention", "retention"])
def test_without_memory_the_summary_is_nothing(backbone: Any):
    model = small_rmt(backbone=backbone, num_memory_tokens=0)
    assert model.summarise(model(random_tokens(2, 8)).state).shape == (2, 0, 16)


def test_rows_at_different_places_keep_to_the_learned_positions_of_the_segment():
    # As many positions as a segment has tokens: a row that goes on beside one that begins has none to spare.
    model = small_rmt(backbone=small_backbone(positions="learned", max_positions=5))
    tokens, mask = random_tokens(2, 8), torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    ragged = model(tokens, mask=mask).state
    more = random_tokens(2, 6, seed=3)
    logits = model(more, ragged).logits
    for row, length in enumerate((8, 5)):
        alone = model(more[row : row + 1], model(tokens[row : row + 1, :length]).state).logits
        torch.testing.assert_close(logits[row : row + 1], alone, rtol=0, atol=1e-11)
