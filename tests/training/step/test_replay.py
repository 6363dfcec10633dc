"""Memory replay gives the gradient of plain back-propagation, in the memory of one piece."""

import itertools
import json
import subprocess
import sys
import weakref
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from laws.families import case_name, random_tokens
from models.rmt.small import RETNET, small_backbone, small_rmt
from retentive.models.registry import build
from retentive.models.rmt import RecurrentMemoryConfig, RecurrentMemoryTransformer
from retentive.models.transformer import TransformerConfig
from retentive.state import named_tensors
from retentive.training.objectives.next_token import NextToken
from retentive.training.run.config import HardwareConfig, TrainConfig
from retentive.training.step.pieces import cut_text
from retentive.training.step.replay import check_replayable, replay
from retentive.training.step.unroll import unrolled

DROPPING = small_backbone(dropout=0.2, attention_dropout=0.2)

CASES = [
    {},
    {"xl_length": 5},
    {"xl_length": 4, "xl_gradient": "states", "xl_layer_above": True},
    {"xl_length": 4, "xl_gradient": "none", "backbone": small_backbone(positions="learned", max_positions=5)},
    {"xl_length": 5, "backbone": DROPPING},
    {"memory_code": "sign", "memory_flips": 0.1},
    {"memory_noise": 0.3, "backbone": DROPPING},
    {"memory": "associative", "associative_dim": 4, "backbone": DROPPING},
    {"backbone": RETNET, "causal_memory": True},
    {"read_first": False, "write_start": "learned", "token_shift": True, "embedding_gradient": 0.1},
    {"bidirectional": True, "xl_length": 3},
]

TOKENS, LABELS = random_tokens(3, 33), random_tokens(3, 33, seed=1)
LABELS[0, 3:19] = -100
MASK = torch.ones(3, 33, dtype=torch.bool)
MASK[1, 20:] = MASK[2, :4] = False
STARTS = torch.zeros(3, 33, dtype=torch.bool)
STARTS[0, 7] = STARTS[2, 21] = True


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def plain(model: nn.Module, pieces, state=None, **options):
    torch.manual_seed(7)
    loss, left = unrolled(pieces, state, **options)
    loss.backward()
    return loss.detach(), left.detach(), gradients(model), torch.get_rng_state()


def replayed(model: nn.Module, pieces, state=None, **options):
    torch.manual_seed(7)
    loss, left = replay(pieces, state, **options)
    return loss, left, gradients(model), torch.get_rng_state()


def assert_same(first, second, atol: float = 1e-10):
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=atol)
    for name, tensor in named_tensors(first[1]).items():
        torch.testing.assert_close(named_tensors(second[1])[name], tensor, rtol=0, atol=atol, msg=name)
    assert first[2].keys() == second[2].keys()
    for name, gradient in first[2].items():
        torch.testing.assert_close(second[2][name], gradient, rtol=0, atol=atol, msg=name)
    assert torch.equal(first[3], second[3])  # the next step draws what it would have drawn


@pytest.mark.parametrize("changes", CASES, ids=case_name)
@pytest.mark.parametrize("length", [5, 7])
def test_replay_equals_plain(changes: dict, length: int):
    model = small_rmt(**changes).train()
    pieces = cut_text(model, TOKENS, LABELS, length=length)
    expected = plain(model, pieces)
    assert all(gradient.abs().max() > 0 for gradient in expected[2].values())
    assert_same(expected, replayed(model, pieces))


@pytest.mark.parametrize("changes", [{}, {"xl_length": 5, "backbone": DROPPING}], ids=case_name)
def test_plain_is_one_call(changes: dict):
    model = small_rmt(**changes).train()
    torch.manual_seed(7)
    output = model(TOKENS, labels=LABELS)
    output.loss.backward()
    whole = (output.loss.detach(), output.state.detach(), gradients(model), torch.get_rng_state())
    assert_same(whole, replayed(model, cut_text(model, TOKENS, LABELS, length=5)))


@pytest.mark.parametrize("changes", CASES, ids=case_name)
def test_recomputed_segments_give_the_same(changes: dict):
    model = small_rmt(**changes).train()
    pieces = cut_text(model, TOKENS, LABELS.where(MASK, -100), length=33, mask=MASK, starts=STARTS)
    expected = plain(model, pieces)
    model.recomputes_segments = True
    assert_same(expected, plain(model, pieces))


class Doubled(NextToken):
    """Twice the loss of the next token."""

    def __call__(self, model, window, state):
        total, count, following = super().__call__(model, window, state)
        return 2 * total, count, following


def test_pieces_have_the_loss_of_their_objective():
    model = small_rmt().train()
    loss, _ = unrolled(cut_text(model, TOKENS, LABELS, length=7), None)
    doubled, _ = unrolled(cut_text(model, TOKENS, LABELS, length=7, objective=Doubled()), None)
    torch.testing.assert_close(doubled, 2 * loss)


@pytest.mark.parametrize("family", ["retnet", "transformer"])
def test_replay_is_for_every_family_that_carries_a_state(family: str):
    backbone = RETNET if family == "retnet" else DROPPING
    model = build(backbone).double().train()
    pieces = cut_text(model, TOKENS, LABELS, length=6, starts=STARTS)
    assert_same(plain(model, pieces), replayed(model, pieces))


@pytest.mark.parametrize("changes", [{}, {"xl_length": 4, "backbone": DROPPING}], ids=case_name)
def test_replay_with_padding_and_documents(changes: dict):
    model = small_rmt(**changes).train()
    pieces = cut_text(model, TOKENS, LABELS.where(MASK, -100), length=5, mask=MASK, starts=STARTS)
    assert_same(plain(model, pieces), replayed(model, pieces))


def test_replay_goes_on_from_a_state_and_gives_it_its_gradient():
    model = small_rmt(xl_length=3).train()
    state = model(random_tokens(3, 12, seed=5)).state.detach()
    state.memory.requires_grad_()
    before = {name: tensor.clone() for name, tensor in named_tensors(state).items()}
    pieces = cut_text(model, TOKENS, LABELS, length=5)
    expected = plain(model, pieces, state)
    wanted, state.memory.grad = state.memory.grad, None
    assert_same(expected, replayed(model, pieces, state))
    torch.testing.assert_close(state.memory.grad, wanted, rtol=0, atol=1e-10)
    for name, tensor in named_tensors(state).items():
        assert torch.equal(tensor, before[name])
        assert tensor.requires_grad is (name == "memory")


@pytest.mark.parametrize("after", [1, 2, 3])
def test_replay_is_truncated_where_plain_is(after: int):
    model = small_rmt(xl_length=4, backbone=DROPPING).train()
    pieces = cut_text(model, TOKENS, LABELS, length=5)
    assert_same(plain(model, pieces, truncate_after=after), replayed(model, pieces, truncate_after=after))


@pytest.mark.parametrize("way", [unrolled, replay])
def test_truncation_really_truncates(way):
    """Beyond the reach the gradient is exactly zero, within it is not."""
    model = small_rmt()
    tokens = torch.arange(20)[None].expand(1, 20) % 23  # each segment has tokens of its own
    labels = torch.full_like(tokens, -100)
    labels[:, 15:] = tokens[:, 15:]  # the loss is in the fourth segment
    for after, reached in ((None, 4), (4, 4), (3, 1), (2, 2), (1, 1)):
        model.zero_grad()
        loss, _ = way(cut_text(model, tokens, labels, length=5), None, truncate_after=after)
        if way is unrolled:
            loss.backward()
        norms = model.decoder.embedding.tokens.weight.grad[:20].view(4, 5, -1).flatten(1).norm(dim=1)
        assert [bool(norm > 0) for norm in norms] == [number >= 4 - reached for number in range(4)], after
        assert norms[: 4 - reached].eq(0).all()


def test_replay_in_float32_equals_plain():
    model = small_rmt(dtype=torch.float32, xl_length=5, backbone=DROPPING).train()
    pieces = cut_text(model, TOKENS, LABELS, length=5)
    assert_same(plain(model, pieces), replayed(model, pieces), atol=1e-5)


def test_replay_under_autocast_equals_plain():
    model = small_rmt(dtype=torch.float32, xl_length=5, backbone=DROPPING).train()
    pieces = cut_text(model, TOKENS, LABELS, length=5, context=lambda: torch.autocast("cpu", torch.bfloat16))
    expected = plain(model, pieces)
    assert_same(expected, replayed(model, pieces), atol=1e-5)
    exact = plain(model, cut_text(model, TOKENS, LABELS, length=5))
    assert (exact[0] - expected[0]).abs() > 1e-5  # so autocast was on


def test_parts_of_a_batch_add_up():
    model = small_rmt(backbone=DROPPING).train()
    total = (LABELS != -100).sum()
    parts = [
        cut_text(model, TOKENS[rows], LABELS[rows], length=5, total_labels=total) for rows in (slice(2), slice(2, 3))
    ]
    torch.manual_seed(7)
    for part in parts:
        unrolled(part, None)[0].backward()
    expected = gradients(model)
    torch.manual_seed(7)
    for part in parts:
        replay(part, None)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10, msg=name)


def test_two_processes_replay_as_one(tmp_path: Path):
    script = str(Path(__file__).with_name("replay_process.py"))
    command = [sys.executable, script]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for run in runs:
        errors = json.loads(run.communicate(timeout=120)[0])
        assert errors.keys() == dict(small_rmt(xl_length=4).named_parameters()).keys()
        assert max(errors.values()) < 1e-10, errors


def test_a_scale_is_in_the_gradients_alone():
    model = small_rmt()
    pieces = cut_text(model, TOKENS, LABELS, length=5)
    once, scaled = replayed(model, pieces), replayed(model, pieces, scale=1024.0)
    assert torch.equal(once[0], scaled[0])
    for name, gradient in once[2].items():
        torch.testing.assert_close(scaled[2][name] / 1024, gradient, rtol=0, atol=1e-12, msg=name)


def test_without_the_restored_random_state_replay_is_wrong(monkeypatch: pytest.MonkeyPatch):
    from retentive.training.step import replay as module

    model = small_rmt(backbone=DROPPING).train()
    pieces = cut_text(model, TOKENS, LABELS, length=5)
    expected = plain(model, pieces)[2]["memory.initial"]
    right = replayed(model, pieces)[2]["memory.initial"]
    monkeypatch.setattr(module._Randomness, "restore", lambda self: None)
    wrong = replayed(model, pieces)[2]["memory.initial"]
    assert (right - expected).norm() < 1e-10
    assert (wrong - expected).norm() > 0.1 * expected.norm()


def test_the_loss_holds_no_graph():
    model = small_rmt()
    loss, state = replay(cut_text(model, TOKENS, LABELS, length=5), None)
    assert loss.grad_fn is None
    assert not loss.requires_grad
    assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in named_tensors(state).values())


def test_each_piece_is_read_twice_and_gone_back_through_once():
    """Two backward passes a piece, with a graph kept between them, cost as much again and held every loss."""
    model, calls = small_rmt(num_memory_tokens=2).train(), {"forward": 0, "backward": 0}
    block = model.decoder.blocks[0]
    block.register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))
    block.mixer.input_proj.register_full_backward_hook(lambda *_: calls.update(backward=calls["backward"] + 1))
    replay(cut_text(model, TOKENS, LABELS, length=5), None)
    pieces = -(-TOKENS.shape[1] // 5)
    assert calls == {"forward": 2 * pieces - 1, "backward": pieces}


def test_what_cannot_be_is_refused():
    model = small_rmt()
    pieces = cut_text(model, TOKENS, LABELS, length=5)
    with pytest.raises(ValueError, match="pieces must hold at least one piece of text, but are empty"):
        replay([], None)
    with pytest.raises(ValueError, match="truncate_after must be at least 1 piece, or None, but is 0"):
        replay(pieces, None, truncate_after=0)
    with pytest.raises(ValueError, match="length of a piece must be at least 1 token, but is 0"):
        cut_text(model, TOKENS, LABELS, length=0)
    with torch.no_grad(), pytest.raises(ValueError, match="with gradients enabled, but is inside of no_grad"):
        replay(pieces, None)
    check_replayable(model.train())
    with pytest.raises(ValueError, match=r"would count it twice in the running statistics of 1; use a norm without"):
        check_replayable(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    model.decoder.blocks[0].mixer_norm = nn.BatchNorm1d(16)
    with pytest.raises(ValueError, match=r"the running statistics of decoder.blocks.0.mixer_norm; use a norm without"):
        replay(pieces, None)


def test_a_run_replays_windows_that_follow_one_another():
    with pytest.raises(
        ValueError, match=r"data.windows_per_graph must be above 1 for hardware.backpropagation='replay'"
    ):
        TrainConfig(store=Path("s"), run=Path("r"), steps=200, hardware=HardwareConfig(backpropagation="replay"))


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations have made and that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or not size:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def live_bytes():
    with _LiveBytes() as count:
        yield count


def peak_bytes(way, segments: int, *, in_one_call: bool = False) -> int:
    """Of one pass over some segments, activations and states and gradients together."""
    backbone = TransformerConfig(vocab_size=32, hidden_size=32, num_layers=2, num_heads=2)
    model = RecurrentMemoryTransformer(RecurrentMemoryConfig(backbone=backbone, segment_length=32, num_memory_tokens=2))
    model.zero_grad()
    tokens = torch.randint(32, (2, 32 * segments), generator=torch.Generator().manual_seed(0))
    model.recomputes_segments = in_one_call
    pieces = cut_text(model, tokens, tokens, length=tokens.shape[1] if in_one_call else 32)
    with live_bytes() as count:
        loss, _ = way(pieces, None)
        if way is unrolled:
            loss.backward()
    return count.peak


def test_the_peak_of_memory_does_not_grow_with_the_text():
    short, long = peak_bytes(replay, 8), peak_bytes(replay, 64)
    memory_tokens = 2 * 2 * 32 * 4 * (64 - 8)
    assert long - memory_tokens < 1.15 * short
    everything = peak_bytes(unrolled, 64)
    assert everything > 4 * peak_bytes(unrolled, 8)
    assert peak_bytes(unrolled, 64, in_one_call=True) < everything / 4


def test_pieces_cover_the_text():
    model = small_rmt()
    pieces = cut_text(model, TOKENS, LABELS, length=7, mask=MASK, starts=STARTS)
    assert [piece.window.tokens.shape[1] for piece in pieces] == [7, 7, 7, 7, 5]
    for name, whole in (("tokens", TOKENS), ("labels", LABELS), ("mask", MASK), ("starts", STARTS)):
        assert torch.equal(torch.cat([getattr(piece.window, name) for piece in pieces], 1), whole)
    assert all(len(set(pair)) == 1 for pair in itertools.pairwise(int(piece.total_labels) for piece in pieces))
