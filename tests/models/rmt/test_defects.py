"""Mistakes found in existing packages by running them; here each is a law.

Where a law has a file of its own (memory replay, generation), the test there is the one.
"""

import dataclasses
import importlib
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from laws.families import VOCAB, case_name, random_tokens
from models.rmt.small import small_backbone, small_rmt
from retentive import Sampling, generate
from retentive.models.rmt.segment_layout import Past, SegmentLayoutBuilder
from retentive.models.rmt.segment_parts import even_plan
from retentive.ops.rotary import rotary_frequencies
from retentive.training.step.pieces import cut_text
from retentive.training.step.replay import replay
from retentive.training.step.unroll import unrolled

RECALLING = {"xl_length": 5}
ASSOCIATIVE = {"memory": "associative", "associative_dim": 4}


def test_training_evaluation_and_generation_are_one_function():
    """Recalled tokens were passed on in some of these and not in others."""
    model = small_rmt(**RECALLING)
    tokens = random_tokens(1, 17)
    logits = model(tokens).logits
    assert torch.equal(model.train()(tokens).logits, logits)
    state, by_hand = None, []
    for begin in range(0, 17, 5):
        output = model(tokens[:, begin : begin + 5], state)
        state = output.state
        by_hand.append(output.logits)
    torch.testing.assert_close(torch.cat(by_hand, 1), logits, rtol=0, atol=1e-12)
    written = generate(model, tokens, max_new_tokens=1).tokens[0]
    assert written.item() == logits[0, -1].argmax()


def test_replay_has_the_gradient_of_the_plain_pass_with_recalled_tokens():
    """With recalled tokens on, the gradient was off by half."""
    model = small_rmt(**RECALLING)
    tokens = random_tokens(2, 17)
    gradients = []
    for way in (unrolled, replay):
        model.zero_grad()
        loss, _ = way(cut_text(model, tokens, tokens, length=5), None)
        if way is unrolled:
            loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, replayed in zip(*gradients, strict=True):
        torch.testing.assert_close(replayed, plain, rtol=0, atol=1e-12)


def test_the_callers_labels_count():
    """They were overwritten by the shifted tokens."""
    model = small_rmt()
    tokens = random_tokens(2, 13)
    losses = [model(tokens, labels=random_tokens(2, 13, seed=seed)).loss.item() for seed in range(3)]
    assert len(set(losses)) == 3


def test_an_encoder_learns_masked_tokens():
    """Through the wrapper an encoder could not be trained at all: labels were always the next token."""
    torch.manual_seed(0)
    model = small_rmt(dtype=torch.float32, bidirectional=True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    hidden, losses = VOCAB - 1, []
    for step in range(60):
        text = (torch.arange(20) + torch.randint(0, 20, (16, 1), generator=torch.Generator().manual_seed(step))) % 20
        covered = torch.rand(16, 20, generator=torch.Generator().manual_seed(1000 + step)) < 0.2
        labels = text.where(covered, -100)
        loss = model(text.masked_fill(covered, hidden), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


SIGHTS = [
    {},
    RECALLING,
    {"causal_memory": True},
    {"causal_memory": True, **RECALLING},
    {"num_memory_tokens": 0, **RECALLING},
]


@pytest.mark.parametrize("changes", SIGHTS, ids=case_name)
def test_a_token_sees_itself_and_what_is_before_it(changes: dict):
    """With causal memory the first forward crashed, or a token did not see itself."""
    model = small_rmt(**changes)
    tokens = random_tokens(1, 15)
    for edited in range(15):
        other = tokens.clone()
        other[0, edited] = (other[0, edited] + 1) % VOCAB
        changed = (model(tokens).logits != model(other).logits).any(-1)[0]
        end = 15 if changes.get("num_memory_tokens") != 0 else min(15, edited // 5 * 5 + 15)
        assert changed.tolist() == [edited <= column < end for column in range(15)]


def test_recalling_the_layer_above_changes_something():
    """The option did nothing."""
    tokens = random_tokens(1, 15)
    below, above = (small_rmt(xl_layer_above=option, **RECALLING)(tokens).logits for option in (False, True))
    assert torch.equal(below[:, :5], above[:, :5])
    assert not torch.equal(below[:, 5:], above[:, 5:])


@pytest.mark.parametrize("length", [0, 1, 3, 5])
def test_what_is_recalled_is_the_end_of_the_segments_text(length: int):
    """The cache held memory slots in place of text, and everything where its length was 0."""
    model = small_rmt(backbone=small_backbone(num_layers=1), num_memory_tokens=0, xl_length=length)
    tokens = random_tokens(1, 10)
    for read in (1, 3, 5, 7):
        assert model(tokens[:, :read]).state.history.shape[2] == min(length, read if read <= 5 else read - 5)
    reaching = []
    for edited in range(5):
        other = tokens.clone()
        other[0, edited] = (other[0, edited] + 1) % VOCAB
        reaching.append(bool((model(tokens).logits != model(other).logits)[0, 5:].any()))
    assert reaching == [column >= 5 - length for column in range(5)]


def test_every_key_is_rotated_by_its_own_position():
    """Positions were off by one, and cached memory slots were taken for text."""
    model = small_rmt(xl_length=4)
    part = even_plan(random_tokens(1, 5), torch.zeros(1, dtype=torch.long), 0, 5).parts[0]
    builder = SegmentLayoutBuilder(model.config, model.decoder.rotary, torch.float64)
    segment_layout = builder.build(part, Past(recalled=4), keep=False)
    frequencies = rotary_frequencies(4, frequencies="standard")
    (recalled,), (tables,) = segment_layout.recalled.values(), segment_layout.layout.rotary.values()
    for cos, first in ((recalled.cos, 2), (tables.cos[:, segment_layout.text], 6)):
        angles = torch.arange(first, first + cos.shape[1])[:, None] * frequencies
        torch.testing.assert_close(cos[0], angles.cos(), rtol=0, atol=1e-12)


def test_absolute_positions_are_those_of_the_segments_text_alone():
    """Recalled and present tokens had the same absolute positions and were keys side by side."""
    model = small_rmt(backbone=small_backbone(positions="learned", max_positions=5), xl_length=5)
    tokens = random_tokens(1, 15)
    with torch.no_grad():
        model.decoder.embedding.positions.weight[3] += 1.0
    reference = small_rmt(backbone=small_backbone(positions="learned", max_positions=5), xl_length=5)
    changed = (model(tokens[:, :3]).logits != reference(tokens[:, :3]).logits).any()
    assert not changed
    assert (model(tokens[:, :4]).logits != reference(tokens[:, :4]).logits)[0, 3].all()


@pytest.mark.parametrize("time", range(1, 17))
def test_a_mask_and_a_loss_go_together(time: int):
    """The mask was not cut along with the tokens: a crash for every length."""
    model = small_rmt(**RECALLING)
    tokens, mask = random_tokens(2, time), torch.ones(2, time, dtype=torch.bool)
    mask[1, time // 2 :] = False
    loss = model(tokens, labels=tokens.where(mask, -100), mask=mask).loss
    assert loss.isfinite()


def test_the_loss_is_a_mean_over_valid_tokens_and_no_segment_makes_it_nan():
    """A segment without a label made the whole loss NaN; others counted by their length."""
    model = small_rmt()
    tokens, labels = random_tokens(2, 20), random_tokens(2, 20, seed=1)
    labels[:, :17] = -100  # answers stand in the last segment
    output = model(tokens, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits[:, 17:].flatten(0, 1), labels[:, 17:].flatten())
    torch.testing.assert_close(output.loss, expected, rtol=0, atol=1e-12)
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    nothing = model(tokens, labels=torch.full_like(labels, -100)).loss
    assert nothing.item() == 0
    # One label in the first segment, four in the second: a fifth each.
    uneven = torch.full_like(labels[:1], -100)
    uneven[0, [4, 5, 6, 7, 8]] = tokens[0, [4, 5, 6, 7, 8]]
    output = model(tokens[:1], labels=uneven)
    each = torch.nn.functional.cross_entropy(output.logits[0, 4:9], uneven[0, 4:9], reduction="none")
    torch.testing.assert_close(output.loss, each.mean(), rtol=0, atol=1e-12)


def test_the_first_segment_can_be_read_without_memory():
    """Masking the read memory of the first step crashed or masked all but it."""
    model = small_rmt(read_first=False)
    blank = small_rmt(num_memory_tokens=0)
    blank.load_state_dict(model.state_dict(), strict=False)
    tokens = random_tokens(2, 10)
    logits = model(tokens).logits
    torch.testing.assert_close(logits[:, :5], blank(tokens[:, :5]).logits, rtol=0, atol=1e-12)
    assert (logits[:, 5:] - blank(tokens).logits[:, 5:]).abs().max() > 1e-3


def test_positions_stay_apart_in_bfloat16():
    """Tables in bfloat16 at positions of 10,000 made all tokens of a segment stand at one place."""
    model = small_rmt(segment_length=16, xl_length=16).bfloat16()
    part = even_plan(random_tokens(1, 16), torch.zeros(1, dtype=torch.long), 0, 16).parts[0]
    builder = SegmentLayoutBuilder(model.config, model.decoder.rotary, torch.bfloat16)
    layout = builder.build(part, Past(recalled=16), keep=False).layout
    (tables,) = layout.rotary.values()
    assert tables.cos.dtype == torch.float32
    assert len(torch.cat((tables.cos, tables.sin), -1)[0].unique(dim=0)) == 20
    # And the model tells an order: the same tokens turned around give another answer.
    tokens = random_tokens(1, 16)
    assert not torch.equal(model(tokens).logits[0, -1], model(tokens.flip(1)).logits[0, -1])


def test_attention_needs_no_kernel_of_its_own(monkeypatch: pytest.MonkeyPatch):
    """One kernel alone was allowed on some GPUs, one that takes no mask, while a mask was always given."""
    flags = ("flash_sdp_enabled", "mem_efficient_sdp_enabled", "math_sdp_enabled", "cudnn_sdp_enabled")
    before, during, masks = [getattr(torch.backends.cuda, flag)() for flag in flags], [], []

    def observed(*arguments, **options):
        during.append([getattr(torch.backends.cuda, flag)() for flag in flags])
        masks.append(options["attn_mask"] is not None)
        return torch.nn.functional.scaled_dot_product_attention(*arguments, **options)

    monkeypatch.setattr(importlib.import_module("retentive.ops.attention"), "scaled_dot_product_attention", observed)
    model = small_rmt(dtype=torch.float32, **RECALLING)
    tokens = random_tokens(2, 13)
    everywhere = model(tokens).logits
    assert any(masks)
    assert all(allowed == before for allowed in during)
    assert all(before)
    with torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.MATH]):
        torch.testing.assert_close(model(tokens).logits, everywhere, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [RECALLING, {"causal_memory": True, "token_shift": True}, ASSOCIATIVE], ids=case_name
)
def test_whatever_is_made_is_made_on_the_models_device(changes: dict):
    """A mask or a table made elsewhere runs on a CPU alone."""
    made = set[str]()

    class Devices(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            made.update(tensor.device.type for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor))
            return result

    model = small_rmt(dtype=torch.float32, **changes).to("meta")
    tokens = random_tokens(2, 13).to("meta")
    with Devices(), torch.no_grad():
        output = model(tokens, labels=tokens)
        model(tokens[:, :4], output.state, logits_to_keep=1)
    assert made == {"meta"}


@pytest.mark.parametrize("way", [unrolled, replay])
def test_what_the_caller_gives_is_left_as_it_is(way):
    """The given memory was made to require a gradient, kept one, and replay gave no memory back."""
    model = small_rmt()
    given = torch.randn(2, 2, 16, dtype=torch.float64)
    state = dataclasses.replace(model.initial_state(2).detach(), memory=given)
    before = given.clone()
    tokens = random_tokens(2, 11)
    loss, left = way(cut_text(model, tokens, tokens, length=5), state)
    if way is unrolled:
        loss.backward()
    assert torch.equal(given, before)
    assert given.grad is None
    assert not given.requires_grad
    expected = model(tokens, state).state.memory
    torch.testing.assert_close(left.memory, expected, rtol=0, atol=1e-12)


def test_torch_is_all_that_a_recurrent_memory_imports():
    """A dependency was not declared, and the import failed without it."""
    known = "{'torch', 'jaxtyping', 'numpy', 'retentive'}"
    program = (
        "import sys; import torch, jaxtyping, numpy; before = set(sys.modules); import retentive.models.rmt\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        f"print(sorted(new - set(sys.stdlib_module_names) - {known}))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_padded_segment_leaves_the_memory_alone():
    """Rows that had ended went on writing their memory."""
    model = small_rmt()
    tokens = random_tokens(2, 20)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, 5:] = False
    state = model(tokens, mask=mask).state
    torch.testing.assert_close(state.memory[1], model(tokens[1:, :5]).state.memory[0], rtol=0, atol=1e-12)


def test_streamed_text_goes_on_and_is_sampled_on():
    """Generation returned no memory, so nothing could go on from it."""
    model = small_rmt(**RECALLING)
    sampling = Sampling(temperature=1.0, seed=3)
    whole = generate(model, random_tokens(1, 7), max_new_tokens=20, sampling=sampling)
    first = generate(model, random_tokens(1, 7), max_new_tokens=9, sampling=sampling)
    rest = generate(model, max_new_tokens=11, sampling=sampling, state=first.state)
    assert torch.equal(torch.cat((first.tokens[0], rest.tokens[0])), whole.tokens[0])
    with pytest.raises(ValueError, match="prompt must hold at least one token for each row"):
        generate(model, [], max_new_tokens=3)


def test_all_parts_of_the_memory_learn():
    """A recurrent state that no gradient reached went unnoticed."""
    for changes in (
        {"write_start": "learned"},
        {"memory": "associative", "associative_dim": 4},
        {"memory_code": "sign"},
    ):
        model = small_rmt(**changes)
        tokens = random_tokens(2, 15)
        labels = tokens.clone()
        labels[:, :10] = -100
        model(tokens, labels=labels).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_memory_tokens_begin_apart():
    """All of them were one and the same random vector."""
    initial = small_rmt(num_memory_tokens=8).memory.initial
    assert torch.pdist(initial).min() > 0.1


def test_memory_is_written_after_the_segment_not_before():
    """A decoder that writes its memory before the text never learns; here the write slots see all of the segment."""
    model = small_rmt()
    tokens = random_tokens(1, 5)
    for edited in range(5):
        other = tokens.clone()
        other[0, edited] = (other[0, edited] + 1) % VOCAB
        assert not torch.equal(model(tokens).state.memory, model(other).state.memory)


def test_nothing_is_kept_in_the_module():
    """A state kept in the module leaked from one batch into the next and was in no checkpoint."""
    model = small_rmt(memory="associative", associative_dim=4)
    tokens = random_tokens(2, 15)
    first = model(tokens).logits
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(random_tokens(3, 12, seed=9))
    assert torch.equal(model(tokens).logits, first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not list(model.buffers())
