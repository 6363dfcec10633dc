"""What tokens read of neighbours: equal to the paper's loops, causal, the same however calls are cut."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.equality import assert_close_states
from laws.families import VOCAB, case_name, random_tokens
from models.retro.naive import naive_logits
from models.retro.small import CHUNK, DEEPNORM, RETNET, random_neighbours, small_backbone, small_retro
from retentive.models.retro import end_chunks_every
from retentive.state import named_tensors

VARIANTS = [
    {},
    {"backbone": RETNET, "cross_layers": (1, 3), "encoder_cross_layers": (1, 2)},
    DEEPNORM,
    {"relative_position": False, "norm": "layer_norm", "cross_num_heads": 2, "cross_head_dim": 6, "gated": True},
    {"encoder_cross_layers": (), "share_embeddings": True, "encoder_hidden_size": 16, "encoder_num_heads": 2},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_equal_to_the_papers_loops_forward_and_backward(changes: dict):
    model = small_retro(**changes)
    tokens, neighbours = random_tokens(2, 11), random_neighbours(2, 2)
    logits = model(tokens, neighbours=neighbours).logits
    expected = torch.stack([naive_logits(model, *row) for row in zip(tokens, neighbours, strict=True)])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-11)
    weights = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours = torch.autograd.grad((logits * weights).sum(), list(model.parameters()))
    theirs = torch.autograd.grad((expected * weights).sum(), list(model.parameters()))
    for (name, _), mine, naive in zip(model.named_parameters(), ours, theirs, strict=True):
        torch.testing.assert_close(mine, naive, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
@pytest.mark.parametrize("offset", [0, 1])
def test_neighbours_of_a_chunk_first_change_its_last_position(changes: dict, offset: int):
    model = small_retro(chunk_offset=offset, **changes)
    tokens, neighbours = random_tokens(2, 19), random_neighbours(2, 4)
    before = model(tokens, neighbours=neighbours).logits
    for chunk in range(4):
        other = neighbours.clone()
        other[:, chunk] = random_neighbours(2, 4, seed=9)[:, chunk]
        changed = (model(tokens, neighbours=other).logits != before).any(-1).any(0)
        first = (chunk + 1) * CHUNK - 1 + offset
        assert not changed[:first].any()
        assert changed[first]
        # Of the last set alone: what comes after it is changed through the mixers too.
        if chunk == 3:
            assert changed[first:].all()


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_every_prefix_gives_the_prefix_of_the_logits(changes: dict):
    model = small_retro(**changes)
    tokens, neighbours = random_tokens(2, 14), random_neighbours(2, 3)
    whole = model(tokens, neighbours=neighbours).logits
    for time in range(1, 15):
        part = model(tokens[:, :time], neighbours=neighbours[:, : time // CHUNK]).logits
        torch.testing.assert_close(part, whole[:, :time], rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
@given(cuts=st.sets(st.integers(1, 22), max_size=7), offset=st.sampled_from([0, 1, 6]))
@settings(deadline=None, max_examples=8)
def test_calls_cut_anywhere_equal_one_call(changes: dict, cuts: set[int], offset: int):
    model = small_retro(chunk_offset=offset, **changes)
    tokens, neighbours = random_tokens(2, 23), random_neighbours(2, (23 - offset) // CHUNK)
    whole = model(tokens, neighbours=neighbours)
    state, logits, read = None, [], 0
    for begin, end in itertools.pairwise([0, *sorted(cuts), 23]):
        ended = model.ended_chunks(tokens[:, begin:end], state)
        count = ended.shape[1]
        first = offset + read * CHUNK
        assert torch.equal(ended.flatten(1), tokens[:, first : first + count * CHUNK])
        output = model(tokens[:, begin:end], state, neighbours=neighbours[:, read : read + count])
        state, read = output.state, read + count
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), whole.logits, rtol=0, atol=1e-11)
    assert_close_states(state, whole.state, atol=1e-11)


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_gradients_reach_neighbours_read_in_an_earlier_call(changes: dict):
    model = small_retro(**changes)
    tokens, labels, neighbours = random_tokens(2, 12), random_tokens(2, 12, seed=1), random_neighbours(2, 3)
    model(tokens, labels=labels, neighbours=neighbours).loss.backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    first = model(tokens[:, :6], labels=labels[:, :6], neighbours=neighbours[:, :1])
    second = model(tokens[:, 6:], first.state, labels[:, 6:], neighbours=neighbours[:, 1:])
    ((first.loss + second.loss) / 2).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, whole[name], rtol=0, atol=1e-11, msg=name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_missing_neighbours_are_no_neighbours(changes: dict, dtype: torch.dtype):
    model = small_retro(dtype=dtype, **changes)
    tokens = random_tokens(2, 19)
    missing = torch.full((2, 4, 2, 8), -1)
    without = model(tokens, labels=tokens)
    output = model(tokens, labels=tokens, neighbours=missing)
    masked = random_neighbours(2, 4).clamp_min(0)
    other = model(tokens, labels=tokens, neighbours=masked, neighbour_mask=torch.zeros_like(masked, dtype=torch.bool))
    for found in (output, other):
        assert torch.equal(found.logits, without.logits)
        assert torch.equal(found.loss, without.loss)
        found.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    more = random_tokens(2, 6, seed=1)
    assert torch.equal(model(more, output.state).logits, model(more, without.state).logits)


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_without_neighbours_it_is_the_backbone_alone(changes: dict):
    model = small_retro(**changes)
    if model.config.residual == "deepnorm":
        return
    from retentive.models.registry import build

    backbone = build(model.config.backbone).double()
    backbone.decoder.load_state_dict(model.decoder.state_dict())
    tokens = random_tokens(2, 19)
    assert torch.equal(model(tokens).logits, backbone(tokens).logits)


@pytest.mark.parametrize("is_training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("has_neighbours", [False, True], ids=["without", "with"])
def test_there_is_a_loss_in_either_mode_with_neighbours_and_without(is_training: bool, has_neighbours: bool):
    model = small_retro().train(is_training)
    tokens, labels = random_tokens(2, 11), random_tokens(2, 11, seed=1)
    labels[0, 3:6] = -100
    neighbours = random_neighbours(2, 2) if has_neighbours else None
    output = model(tokens, labels=labels, neighbours=neighbours)
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(output.loss, expected, rtol=0, atol=1e-12)
    lean = model(tokens, labels=labels, neighbours=neighbours, logits_to_keep=0)
    assert lean.logits is None
    torch.testing.assert_close(lean.loss, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_the_order_of_neighbours_does_not_matter(changes: dict):
    model = small_retro(**changes)
    tokens, neighbours = random_tokens(2, 15), random_neighbours(2, 3, k=3)
    expected = model(tokens, neighbours=neighbours).logits
    for order in ((0, 2, 1), (1, 2, 0), (2, 1, 0)):
        logits = model(tokens, neighbours=neighbours[:, :, list(order)]).logits
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def test_any_number_and_length_of_neighbours():
    model = small_retro()
    tokens = random_tokens(2, 15)
    for k, length in itertools.product((1, 2, 5), (4, 5, 8, 21)):
        neighbours = random_neighbours(2, 3, k, length)
        logits = model(tokens, neighbours=neighbours).logits
        # Padding at the end of a neighbour, and missing ones beside it, change nothing.
        longer = torch.nn.functional.pad(neighbours, (0, 3, 0, 1), value=-1)
        torch.testing.assert_close(model(tokens, neighbours=longer).logits, logits, rtol=0, atol=1e-12)
        if k == 1:
            assert torch.equal(model(tokens, neighbours=neighbours.squeeze(2)).logits, logits)


def test_what_stands_in_the_padding_of_neighbours_does_not_matter_and_gets_no_gradient():
    model = small_retro()
    tokens, neighbours = random_tokens(2, 15), random_neighbours(2, 3).clamp(-1, VOCAB - 2)
    mask = neighbours >= 0
    filled = neighbours.where(mask, VOCAB - 1)  # a token that stands nowhere else
    output = model(tokens, labels=tokens, neighbours=filled, neighbour_mask=mask)
    assert torch.equal(output.logits, model(tokens, neighbours=neighbours).logits)
    output.loss.backward()
    gradient = model.encoder.embedding.weight.grad
    assert gradient[VOCAB - 1].eq(0).all()
    assert gradient[:10].abs().amax() > 0


def test_identical_tokens_of_a_chunk_read_different_things():
    # The relative position is told within the chunk: each row of the attending chunk stands at its own distance.
    model = small_retro(backbone=small_backbone(positions="none"))
    cross = model.cross[0]
    ended = cross.read(torch.randn(1, 1, 1, 8, 12, dtype=torch.float64), torch.ones(1, 1, 1, 8, dtype=torch.bool))
    plan = model._plan(random_tokens(1, 7), None, None, None)
    same = torch.randn(1, 1, 16, dtype=torch.float64).expand(1, 7, 16)
    rows = cross(same, cross.nothing(1, None, torch.float64), ended, plan.reads)[0]
    assert torch.equal(rows[:3], same[0, :3])
    for first, second in itertools.combinations(range(3, 7), 2):
        assert (rows[first] - rows[second]).abs().max() > 1e-4


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=4)
def test_padding_and_documents_read_as_each_alone(changes: dict, seed: int):
    model = small_retro(chunk_offset=seed % 2, **changes)
    generator = torch.Generator().manual_seed(seed)
    state, alone = None, [None] * 2
    for call in range(2):
        tokens = random_tokens(2, 15, seed + call)
        mask = torch.rand(2, 15, generator=generator) > 0.3
        starts = torch.rand(2, 15, generator=generator) > 0.9
        ended = model.ended_chunks(tokens, state, mask=mask, starts=starts)
        neighbours = random_neighbours(2, ended.shape[1], k=1 + call, seed=seed + call)
        output = model(tokens, state, neighbours=neighbours, mask=mask, starts=starts)
        for row in range(2):
            read = 0
            for column in range(15):
                if starts[row, column]:  # at padding too
                    alone[row] = None
                if not mask[row, column]:
                    continue
                carried = alone[row]
                token = tokens[row : row + 1, column : column + 1]
                chunk = model.ended_chunks(token, carried)
                count = chunk.shape[1]
                if count:
                    assert torch.equal(chunk[0, 0], ended[row, read])
                given = neighbours[row : row + 1, read : read + count]
                one = model(token, carried, neighbours=given)
                torch.testing.assert_close(output.logits[row, column], one.logits[0, 0], rtol=0, atol=1e-11)
                alone[row], read = one.state, read + count
            assert ended[row, read:].eq(-1).all()
        state = output.state


@pytest.mark.parametrize("changes", VARIANTS, ids=case_name)
def test_a_document_reads_no_neighbours_of_the_one_before_before_it_has_a_chunk(changes: dict):
    model, tokens = small_retro(**changes), random_tokens(2, 2 * CHUNK + 3)
    whole = model(tokens, neighbours=random_neighbours(2, 2))
    state = model(tokens[:, : 2 * CHUNK], neighbours=random_neighbours(2, 2)).state
    begin, more = tokens[:, 2 * CHUNK : -1], tokens[:, -1:]
    starts = torch.tensor([[True, False], [False, False]])  # a new document in the first row, no chunk of which ends
    first = model(begin, state, starts=starts)
    # Nor is it looked for with tokens of the other one, where a chunk is made to end early.
    early = model.ended_chunks(more, end_chunks_every(first.state, 2, CHUNK))
    assert early.tolist() == [[[-1, *tokens[0, -3:].tolist()]], [tokens[1, -CHUNK:].tolist()]]
    second = model(more, first.state)
    logits = torch.cat((first.logits, second.logits), 1)
    torch.testing.assert_close(logits[0], model(tokens[:1, 2 * CHUNK :]).logits[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(logits[1], whole.logits[1, 2 * CHUNK :], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("is_ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("changes", VARIANTS[:3], ids=case_name)
def test_autocast_goes_on_from_its_states_and_so_does_a_call_without_it(changes: dict, is_ragged: bool):
    model, tokens, mask = small_retro(dtype=torch.float32, **changes), random_tokens(2, 10), torch.ones(2, 10) > 0
    neighbours = random_neighbours(2, 2)
    expected = model(tokens, neighbours=neighbours).logits
    limit = 0.1 * expected.abs().max()

    def read(begin: int, end: int, state=None):
        given = neighbours[:, begin // CHUNK : end // CHUNK]
        return model(tokens[:, begin:end], state, neighbours=given, mask=mask[:, begin:end] if is_ragged else None)

    with torch.autocast("cpu", torch.bfloat16):
        first = read(0, 6)
        for begin, end in ((6, 7), (6, 10)):  # inside a chunk, and over its end
            within = read(begin, end, first.state)
            assert (within.logits - expected[:, begin:end]).abs().max() < limit
    for begin, end in ((6, 7), (6, 10)):
        after = read(begin, end, first.state)
        assert after.logits.dtype == torch.float32
        assert (after.logits - expected[:, begin:end]).abs().max() < limit
    assert (model.step(tokens[:, 6], first.state)[0] - expected[:, 6]).abs().max() < limit


@pytest.mark.parametrize("is_ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("ends_without", [False, True], ids=["neighbours", "none at last"])
def test_a_state_takes_the_memory_of_what_it_carries_and_no_more(is_ragged: bool, ends_without: bool):
    model, neighbours = small_retro(), random_neighbours(2, 8)
    mask = torch.ones(2, 8 * CHUNK + 1, dtype=torch.bool) if is_ragged else None
    state = model(random_tokens(2, 8 * CHUNK + 1), neighbours=neighbours, mask=mask).state
    if ends_without:
        state = model(random_tokens(2, CHUNK), state, mask=None if mask is None else mask[:, :CHUNK]).state
    for layer in state.neighbours:
        assert (layer.key.shape[2] == 0) == ends_without
    carried = {name: tensor for name, tensor in named_tensors(state).items() if not name.startswith("layers.")}
    assert len(carried) > 7
    for name, tensor in carried.items():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name
