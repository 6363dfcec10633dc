"""A state goes into a file and comes back bit for bit, for the model that made it and no other."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from laws.equality import assert_equal_states
from laws.families import ALTERNATIVES, VARIANTS, case_name, cases, random_tokens, small_model
from retentive.checkpoints import (
    GenerationState,
    load_model,
    load_state,
    read_state_metadata,
    save_model,
    save_state,
    weights_fingerprint,
)
from retentive.errors import DamagedFileError, MismatchError
from retentive.models.fingerprint import fingerprint_of
from retentive.models.registry import family_names

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
EVERY_FAMILY = pytest.mark.parametrize("family", family_names())


def rewrite(path: Path, *, tensors: dict | None = None, metadata: dict | None = None) -> None:
    """Change a file by hand, its header or its tensors."""
    with safe_open(path, "pt") as file:
        held = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        about = {**file.metadata(), **(metadata or {})}
    save_file({**held, **(tensors or {})}, path, {name: text for name, text in about.items() if text is not None})


@EVERY_FAMILY
def test_a_state_that_has_read_nothing_comes_back(family: str, tmp_path: Path):
    model = small_model(family)
    save_state(model.initial_state(2), tmp_path / "state", model)
    assert_equal_states(load_state(tmp_path / "state", model), model.initial_state(2).detach())


@EVERY_FAMILY
def test_a_model_that_was_saved_and_loaded_is_the_same_model(family: str, tmp_path: Path):
    model = small_model(family)
    save_model(model, tmp_path / "model")
    save_state(model.initial_state(1), tmp_path / "state", model)
    loaded = load_state(tmp_path / "state", load_model(tmp_path / "model"))
    assert_equal_states(loaded, model.initial_state(1).detach())


def test_metadata_comes_back(tmp_path: Path):
    model = small_model("retnet")
    metadata = {"tokenizer": "0123", "text": "größer {}"}
    save_state(model.initial_state(1), tmp_path / "state", model, metadata)
    assert read_state_metadata(tmp_path / "state") == metadata


def test_a_state_from_before_an_option_came_is_loaded_where_it_is_at_its_default(tmp_path: Path):
    for head_norm in (False, True):
        model, path = small_model("transformer", head_norm=head_norm), tmp_path / "state"
        save_state(model(random_tokens(1, 3)).state, path, model)
        # Of the same length, so that the file's header stays where it is.
        path.write_bytes(path.read_bytes().replace(b'\\"head_norm\\"', b'\\"gated\\"    '))
        if head_norm:
            with pytest.raises(MismatchError, match="head_norm is False there and True here"):
                load_state(path, model)
        else:
            load_state(path, model)


@EVERY_FAMILY
def test_a_state_of_another_model_is_refused(family: str, tmp_path: Path):
    model, path = small_model(family), tmp_path / "state"
    save_state(model(random_tokens(1, 3)).state, path, model)
    other = small_model(family, seed=1)
    with pytest.raises(MismatchError, match="is the state of another model: its config is the same, but its weights"):
        load_state(path, other)
    with pytest.raises(MismatchError, match=r"its config is the same, but its weights \(or their dtype\) differ"):
        load_state(path, small_model(family).float())
    for changes in (*VARIANTS[family], next(iter(ALTERNATIVES[family].values()))):
        with pytest.raises(MismatchError, match=r"its config differs: .* is .* there and .* here.* Load it with"):
            load_state(path, small_model(family, **changes))
    stranger = small_model("retnet" if family == "transformer" else "transformer")
    with pytest.raises(
        MismatchError, match=rf"its config differs: family is '{family}' there and '{stranger.config.family}' here"
    ):
        load_state(path, stranger)


@EVERY_FAMILY
def test_a_state_that_is_not_the_models_is_not_saved(family: str, tmp_path: Path):
    model = small_model(family)
    stranger = small_model("retnet" if family == "transformer" else "transformer")
    with pytest.raises(MismatchError, match="state must be one of the given model's, but it lacks "):
        save_state(stranger(random_tokens(1, 3)).state, tmp_path / "state", model)
    assert not (tmp_path / "state").exists()


def test_a_state_of_another_shape_is_not_saved(tmp_path: Path):
    model, deeper = small_model("retnet"), small_model("retnet", num_layers=3)
    with pytest.raises(MismatchError, match=r"it has layers\.2\.kv, layers\.2\.position, which the model does not"):
        save_state(deeper(random_tokens(1, 3)).state, tmp_path / "state", model)
    model, wider = small_model("retnet"), small_model("retnet", value_dim=4)
    with pytest.raises(
        MismatchError, match=r"its layers.0.kv has the shape \(1, 2, 8, 4\) and should have \(1, 2, 8, 16\)"
    ):
        save_state(wider(random_tokens(1, 3)).state, tmp_path / "state", model)
    model, grouped = small_model("transformer"), small_model("transformer", num_kv_heads=2)
    with pytest.raises(MismatchError, match=r"its layers.0.key has the shape .* and should have \(1, 4, any, 4\)"):
        save_state(grouped(random_tokens(1, 3)).state, tmp_path / "state", model)
    model, windowed = small_model("transformer"), small_model("transformer", window=3)
    with pytest.raises(MismatchError, match=r"its mixers\[0\]\.window: 3, the model's: None"):
        save_state(windowed(random_tokens(1, 3)).state, tmp_path / "state", model)


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        (
            {"format_version": "7"},
            MismatchError,
            "has the format version 7, but this version of retentive .* reads versions 1 and 2",
        ),
        ({"format": "weights"}, DamagedFileError, "is no file that `save_state` wrote"),
        ({"format": None}, DamagedFileError, "is no file that `save_state` wrote"),
        ({"rows": None}, DamagedFileError, "lacks rows in its header; save the state again"),
        ({"rows": "two"}, DamagedFileError, r"of some rows, but its header says kind='model', rows='two'"),
        ({"kind": "text"}, DamagedFileError, r"but its header says kind='text', rows='1': save the state again"),
        ({"config": "[]"}, DamagedFileError, r"\(config in its header\) must hold a JSON object, but holds a list"),
        ({"metadata": "{"}, DamagedFileError, r"\(metadata in its header\) is not JSON"),
        ({"metadata": '{"mine": 1}'}, DamagedFileError, "must hold strings as metadata in its header, but has others"),
        ({"sha256": "0" * 64}, DamagedFileError, r"holds other values than were saved \(its SHA-256 differs\)"),
    ],
)
def test_other_files_and_versions_are_refused(tmp_path: Path, metadata: dict, error: type[Exception], message: str):
    model, path = small_model("retnet"), tmp_path / "state"
    save_state(model.initial_state(1), path, model)
    rewrite(path, metadata=metadata)
    with pytest.raises(error, match=message):
        load_state(path, model)


def test_damaged_files_are_refused(tmp_path: Path):
    model, path = small_model("retnet"), tmp_path / "state"
    with pytest.raises(FileNotFoundError, match=r"there is no state at .*state"):
        load_state(path, model)
    save_state(model(random_tokens(1, 3)).state, path, model)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(DamagedFileError, match=r"cannot be read: it ends after .* before the end of layers"):
        load_state(path, model)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedFileError, match="holds other values than were saved"):
        load_state(path, model)


def test_a_state_is_replaced_whole(tmp_path: Path):
    model, path = small_model("retnet"), tmp_path / "state"
    save_state(model.initial_state(1), path, model)
    later = model(random_tokens(4, 3)).state.detach()
    save_state(later, path, model)
    assert_equal_states(load_state(path, model), later)
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


@EVERY_FAMILY
def test_the_fingerprint_sees_values_names_shapes_and_dtypes(family: str):
    model = small_model(family)
    same = weights_fingerprint(model)
    assert weights_fingerprint(small_model(family)) == same
    others = [small_model(family, seed=1), small_model(family, **VARIANTS[family][0]), small_model(family).float()]
    step = small_model(family)
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.mul_(1 + 1e-6)
    prints = {same, *(weights_fingerprint(other) for other in (*others, step))}
    assert len(prints) == 5


class Adapted(torch.nn.Linear):
    """As adapters have them: whether it acts is no weight; how often it was called says nothing."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)
        self.disabled, self.scaling, self.calls = False, {"default": 2.0}, 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(input) * (1.0 if self.disabled else self.scaling["default"])


@pytest.mark.parametrize("is_disabled", [False, True], ids=["scaled", "disabled"])
def test_a_state_that_an_adapter_made_is_refused_where_it_acts_otherwise(tmp_path: Path, is_disabled: bool):
    model = small_model("retnet")
    adapter = model.decoder.blocks[0].feed_forward.input_proj = Adapted(16, 32).double()
    save_state(model(random_tokens(1, 5)).state, tmp_path / "state", model)
    model(random_tokens(1, 5))
    load_state(tmp_path / "state", model)
    if is_disabled:
        adapter.disabled = True
    else:
        adapter.scaling["default"] = 0.5
    with pytest.raises(MismatchError, match="its config is the same, but its weights"):
        load_state(tmp_path / "state", model)


def test_a_model_of_transformers_is_known_by_its_weights_alone():
    # Its parts hold settings that another release may call otherwise; states are kept for longer.
    config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(config)
    assert weights_fingerprint(model) == fingerprint_of(model.state_dict())


def test_generation_states_are_frozen_and_selectable():
    model = small_model("retnet")
    state = GenerationState(model=model.initial_state(3), unread=torch.tensor([4, 5, 6]))
    chosen = state.select(torch.tensor([2, 0]))
    assert chosen.unread.tolist() == [6, 4]
    assert chosen.batch_size == chosen.model.batch_size == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.unread = torch.zeros(3)  # type: ignore[misc]
