"""What every carried state can do."""

import copy
import dataclasses
import pickle

import pytest
import torch

from laws.families import ALTERNATIVES, case_name, cases, random_tokens, small_model
from retentive.checkpoints.states import load_state, save_state
from retentive.errors import MismatchError
from retentive.state import named_tensors, with_tensors


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_selected_rows_go_on_as_they_would_have(family: str, changes: dict):
    model = small_model(family, **changes)
    state = model(random_tokens(4, 11)).state
    more = random_tokens(4, 3, seed=1)
    expected = model(more, state).logits
    rows = torch.tensor([2, 0, 0])
    torch.testing.assert_close(model(more[rows], state.select(rows)).logits, expected[rows], rtol=0, atol=1e-12)
    keep = torch.tensor([True, False, False, True])
    torch.testing.assert_close(model(more[keep], state.select(keep)).logits, expected[keep], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_detaching_cuts_the_gradient_and_nothing_else(family: str, changes: dict):
    model = small_model(family, **changes)
    state = model(random_tokens(2, 6)).state
    cut = state.detach()
    assert any(tensor.requires_grad for tensor in named_tensors(state).values())
    for name, tensor in named_tensors(cut).items():
        assert not tensor.requires_grad
        assert torch.equal(tensor, named_tensors(state)[name])


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_moving_keeps_every_dtype(family: str, changes: dict):
    model = small_model(family, **changes)
    state = model(random_tokens(2, 6)).state
    moved = state.to("meta")
    for name, tensor in named_tensors(moved).items():
        assert tensor.device.type == "meta"
        assert tensor.dtype == named_tensors(state)[name].dtype
    assert state.size_in_bytes == moved.size_in_bytes > 0


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_state_is_rebuilt_from_its_tensors(family: str, changes: dict):
    model = small_model(family, **changes)
    state = model(random_tokens(2, 6)).state
    rebuilt = with_tensors(model.initial_state(2), named_tensors(state))
    more = random_tokens(2, 3, seed=1)
    assert torch.equal(model(more, rebuilt).logits, model(more, state).logits)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_states_are_frozen(family: str, changes: dict):
    state = small_model(family, **changes).initial_state(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.position = torch.zeros(1)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("family", "changes"),
    [(family, changes) for family, options in ALTERNATIVES.items() for changes in options.values()],
    ids=case_name,
)
def test_a_state_of_any_other_config_is_refused(family: str, changes: dict):
    state = small_model(family)(random_tokens(2, 11)).state
    other = small_model(family, **changes)
    with pytest.raises(MismatchError, match=r"state must .* of a model "):
        other(random_tokens(2, 3), state)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("rmt", {"read_first": False}, "its read_first: True, the model's: False; states pass between models of one"),
        ("rmt", {"write_start": "learned"}, "its write_start: 'memory', the model's: 'learned'"),
        ("rmt", {"memory_code": "sign"}, "its memory_code: 'continuous', the model's: 'sign'"),
        ("transformer", {"window": 3}, r"its mixers\[0\].window: None, the model's: 3"),
        ("transformer", {"rotary_base": 100.0}, r"its mixers\[0\].rotary.base: 10000.0, the model's: 100.0"),
        ("retnet", {"decay": "geometric"}, r"its mixers\[0\].decay: 'linspace', the model's: 'geometric'"),
        ("yoco", {"rotary_base": 100.0}, "its rotary_base: 10000.0, the model's: 100.0"),
        ("retro", {"chunk_offset": 2}, "its chunk_offset: 0, the model's: 2"),
    ],
    ids=case_name,
)
def test_what_differs_between_configs_of_the_same_shapes_is_named(family: str, changes: dict, message: str, tmp_path):
    model, other, more = small_model(family), small_model(family, **changes), random_tokens(2, 3)
    state = model(random_tokens(2, 5)).state
    save_state(state, tmp_path / "state", model)
    ways = {
        "selected": state.select(torch.tensor([1, 0])),
        "detached": state.detach(),
        "moved": state.to("cpu"),
        "copied": copy.deepcopy(state.detach()),
        "pickled": pickle.loads(pickle.dumps(state.detach())),  # noqa: S301 - it is our own
        "saved": load_state(tmp_path / "state", model),
        "gone on with": model(more, state).state,
    }
    for way, carried in ways.items():
        with pytest.raises(MismatchError, match=message):
            other(more, carried)
        assert model(more, carried).logits.isfinite().all(), way


def test_a_state_put_together_by_hand_is_taken_if_its_shapes_fit():
    model, more = small_model("transformer"), random_tokens(2, 3)
    state = model(random_tokens(2, 5)).state
    by_hand = type(state)(layers=state.layers, position=state.position)
    assert torch.equal(model(more, by_hand).logits, model(more, state).logits)
    assert model(more, by_hand).state.config == state.config


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_state_wider_than_the_model_is_read_or_refused_by_name(family: str, changes: dict):
    state = small_model(family, **changes)(random_tokens(2, 6)).state
    narrow = small_model(family, dtype=torch.float32, **changes)
    # Retention adds to states of any width; keys and hidden states must be of one dtype.
    products = (".key", "history", "recent_hidden")
    if any(name.endswith(products) and tensor.numel() for name, tensor in named_tensors(state).items()):
        with pytest.raises(
            MismatchError, match=r"state must have \S+ of the dtype .* torch.float32, .* torch.float64; "
        ):
            narrow(random_tokens(2, 3), state)
    else:
        assert narrow(random_tokens(2, 3), state).logits.dtype == torch.float32


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_narrower_state_is_read(family: str, changes: dict):
    model, tokens = small_model(family, dtype=torch.float32, **changes), random_tokens(2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        state = model(tokens[:, :6]).state
        within = model(tokens[:, 6:], state).logits
    expected = model(tokens).logits[:, 6:]
    for logits in (within, model(tokens[:, 6:], state).logits):
        assert (logits - expected).abs().max() < 0.1 * expected.abs().max()


def test_keys_from_outside_of_autocast_are_refused_within():
    model = small_model("transformer", dtype=torch.float32)
    state = model(random_tokens(1, 4)).state
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(MismatchError, match=r"layers\[0\].key of the dtype that the model computes, torch.bfloat16, or"),
    ):
        model(random_tokens(1, 2), state)


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_model_says_whether_its_state_grows_for_ever(family: str, changes: dict):
    model = small_model(family, **changes)
    sizes = {model(random_tokens(1, time)).state.size_in_bytes for time in (20, 60)}
    assert (len(sizes) == 1) is model.state_is_bounded
