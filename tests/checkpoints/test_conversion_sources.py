"""What cannot be converted is refused by name, and nothing in it is run."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoints.foreign import Case, frozen
from retentive.checkpoints.conversion import convert, format_names, read_foreign, to_foreign
from retentive.cli.main import main
from retentive.errors import DamagedFileError, MismatchError
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.loading import load_tokenizer


@pytest.fixture
def case() -> Case:
    return frozen("fla-1e-12")


def test_tensors_are_named_that_are_missing_unknown_or_of_another_shape(case: Case, tmp_path: Path):
    del case.weights["model.norm.weight"]
    case.weights["model.layers.1.attn.extra.weight"] = torch.zeros(3)
    case.weights["model.layers.0.attn.k_proj.weight"] = torch.zeros(15, 16)
    with pytest.raises(MismatchError) as caught:
        read_foreign(case.write(tmp_path))
    for part in (
        r"1 missing (model.norm.weight)",
        r"1 unknown (model.layers.1.attn.extra.weight)",
        r"model.layers.0.attn.k_proj.weight is (15, 16) and should be (16, 16)",
    ):
        assert part in str(caught.value)


EVERY_FORMAT = ["fla-1e-12", "fla-tied", "torchscale-1e-12", "syncdoth", "yet-another-retnet-swish-1e-12"]
DERIVED = ("retnet_rel_pos.angle", "retnet_rel_pos.decay", "retention.thetas", "lm_head.weight")
"""What follows from the settings or repeats another tensor may be missing, but not be of another shape."""


def has_weights(case: Case, weights: dict[str, torch.Tensor], folder: Path) -> str:
    """What the error says when a case is read with these weights."""
    case = replace(case, weights=weights)
    with pytest.raises(MismatchError) as caught:
        read_foreign(case.write(folder))
    return str(caught.value)


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_each_tensor_is_named_that_is_missing_or_of_another_shape(name: str, tmp_path: Path):
    case = frozen(name)
    for key, tensor in case.weights.items():
        bare = key.removeprefix("model.")
        others = {other: value for other, value in case.weights.items() if other != key}
        if not key.endswith(DERIVED):
            assert bare in has_weights(case, others, tmp_path)
            assert bare in has_weights(case, {**others, f"{key}_renamed": tensor}, tmp_path)
        if key != "lm_head.weight" or name != "fla-tied":
            assert bare in has_weights(case, {**others, key: torch.cat((tensor, tensor[:1]))}, tmp_path)
            assert bare in has_weights(case, {**others, key: tensor[None]}, tmp_path)


def test_a_format_is_told_without_a_tensor_that_repeats_another(tmp_path: Path):
    case = frozen("torchscale-deepnorm")
    expected = read_foreign(case.write(tmp_path)).tensors
    del case.weights["output_projection.weight"]
    found = read_foreign(case.write(tmp_path))
    assert found.format == "torchscale"
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.tensors.items())


def test_heads_are_as_the_settings_say_where_no_tensor_tells_them(tmp_path: Path):
    case = frozen("yet-another-retnet-swish-1e-12")
    case.weights = {name: tensor for name, tensor in case.weights.items() if not name.endswith("thetas")}
    assert read_foreign(case.write(tmp_path)).config.num_heads == case.settings["nhead"]
    del case.settings["nhead"]
    assert read_foreign(case.write(tmp_path)).assumed["nhead"] == 8


def test_a_layer_too_many_is_named(case: Case, tmp_path: Path):
    case.settings["num_hidden_layers"] = 1
    with pytest.raises(MismatchError, match=r"11 unknown \(model.layers.1.attn.g_norm_swish_gate.weight"):
        read_foreign(case.write(tmp_path))


class Harm:
    def __reduce__(self):
        return Path.touch, (Path("harm.txt"),)


def test_code_in_a_pickle_is_not_run(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    case.write(tmp_path)
    torch.save({**case.weights, "harm": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(MismatchError, match=r"could only be read by running code in it, which is refused"):
        read_foreign(tmp_path)
    assert not (tmp_path / "harm.txt").exists()
    pickle.loads(pickle.dumps(Harm()))  # noqa: S301  it would have done harm
    assert (tmp_path / "harm.txt").exists()


def test_other_things_beside_tensors_are_named(case: Case, tmp_path: Path):
    case.write(tmp_path)
    torch.save({**case.weights, "step": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(MismatchError, match="must hold tensors by name and nothing else, but has step"):
        read_foreign(tmp_path)


def test_a_file_that_was_cut_off_is_named(case: Case, tmp_path: Path):
    path = case.write(tmp_path) / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DamagedFileError, match=r"pytorch_model.bin cannot be read"):
        read_foreign(tmp_path)


@pytest.mark.parametrize("text", ["hello", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", ""])
def test_a_text_in_the_place_of_weights_is_named(case: Case, text: str, tmp_path: Path):
    (case.write(tmp_path) / "pytorch_model.bin").write_text(text)
    with pytest.raises((DamagedFileError, MismatchError), match=r"pytorch_model.bin (cannot be read|holds more)"):
        read_foreign(tmp_path)


def test_a_damaged_file_beside_the_weights_is_named_before_anything_is_written(case: Case, tmp_path: Path):
    case.write(tmp_path / "source")
    (tmp_path / "source" / "generation_config.json").write_text('{"eos_token_id": ')
    with pytest.raises(DamagedFileError, match=r"generation_config\.json is not JSON .*: copy it again, or remove it"):
        convert(tmp_path / "source", tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_a_missing_shard_is_named(case: Case, tmp_path: Path):
    case.write(tmp_path)
    for files, error in (
        ({"a": "pytorch_model.bin", "b": "lost.bin"}, "lacks lost.bin, which pytorch_model.bin.index.json lists"),
        ({"a": "../elsewhere.bin"}, "points outside of its folder"),
    ):
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
        with pytest.raises(DamagedFileError, match=error):
            read_foreign(tmp_path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="source must be a folder or file of weights, but there is no"):
        read_foreign(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="or a single other file of weights, but has none"):
        read_foreign(tmp_path)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(MismatchError, match=r"a format that is known here: fla .* the first of them weight"):
        read_foreign(tmp_path)
    with pytest.raises(FileNotFoundError, match="settings must be a JSON file, but there is no"):
        read_foreign(tmp_path, settings=tmp_path / "settings.json")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "b.pt")
    with pytest.raises(FileNotFoundError, match=r"but has 2 files of weights \(a.pt, b.pt\)"):
        read_foreign(tmp_path)


def test_a_wrong_format_is_refused(case: Case, tmp_path: Path):
    case.write(tmp_path)
    with pytest.raises(
        MismatchError, match="must be in the format 'torchscale', but the names of its tensors are 'fla'"
    ):
        read_foreign(tmp_path, format="torchscale")
    with pytest.raises(ValueError, match=r"format must be auto or one of fla, torchscale.*, but is 'onnx'"):
        read_foreign(tmp_path, format="onnx")
    model = read_foreign(tmp_path).model()
    with pytest.raises(ValueError, match="format must be one of"):
        to_foreign(model, "auto")
    with pytest.raises(MismatchError, match=r"one that torchscale computes, but has head_norm_affine=True, normalise"):
        to_foreign(model, "torchscale")


def test_a_model_is_not_written_for_a_package_that_computes_something_else(tmp_path: Path):
    for name in EVERY_FORMAT:
        found = read_foreign(frozen(name).write(tmp_path / name))
        for other in format_names():
            if other != found.format and (found.format, other) != ("torchscale", "syncdoth"):  # which compute the same
                with pytest.raises(MismatchError, match=r"model must be one that .* computes, but has "):
                    to_foreign(found.model(), other)


def test_a_folder_in_use_is_left_alone(case: Case, tmp_path: Path):
    case.write(tmp_path)
    with pytest.raises(FileExistsError, match="dest must be a new or empty folder"):
        convert(tmp_path, tmp_path)


def test_the_command_converts_and_says_what_it_assumed(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = case.write(tmp_path / "source")
    main(["convert", "--from", "fla", str(source), str(tmp_path / "ours")])
    said = capsys.readouterr().out
    assert "fla: a retnet of 6,736 parameters is in" in said
    assert "with the package's defaults: num_kv_heads=None, expand_k=1.0, expand_v=2.0" in said
    with pytest.raises(SystemExit):
        main(["convert", "--from", "gpt2", str(source), str(tmp_path / "other")])
    assert "must be in the format 'gpt2'" in capsys.readouterr().err


def test_a_tokenizer_comes_along(case: Case, tmp_path: Path):
    convert(case.write(tmp_path / "source"), tmp_path / "ours", tokenizer=ByteTokenizer())
    assert load_tokenizer(tmp_path / "ours").fingerprint() == ByteTokenizer().fingerprint()
