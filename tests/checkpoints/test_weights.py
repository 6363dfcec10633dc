"""A model goes into a folder and comes back the same, or is refused with the reason."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from laws.families import random_tokens, small_config, small_model
from retentive.checkpoints import load_model, read_manifest, save_model
from retentive.checkpoints.tensor_file import digest
from retentive.errors import DamagedFileError, MismatchError
from retentive.models.registry import config_to_dict


class WordTokenizer:
    """A tokenizer as `save_model` needs it."""

    end_of_text = 7

    def __init__(self, words: str) -> None:
        self.words = words

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(self.words)

    def fingerprint(self) -> str:
        return f"fingerprint of {self.words}"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a saved model."""
    save_model(small_model("retnet"), tmp_path / "model")
    return tmp_path / "model"


def weights_file(folder: Path) -> Path:
    (path,) = folder.glob("weights-*.safetensors")
    return path


def rewrite_config(folder: Path, change) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rewrite_weights(folder: Path, change) -> None:
    """Change the tensors and the digest with them, as a converter with a mistake would."""
    path = weights_file(folder)
    # Not mapped: the file is written over, which ends a process that still reads a mapping of it.
    tensors = load(path.read_bytes())
    change(tensors)
    save_file(tensors, path)
    rewrite_config(folder, lambda content: content["weights"].update(sha256=digest(tensors)))


def test_mixed_dtypes_are_kept_or_converted_on_request(tmp_path: Path):
    model = small_model("retnet", dtype=torch.bfloat16)
    model.decoder.norm.float()
    save_model(model, tmp_path)
    kept = {name: tensor.dtype for name, tensor in load_model(tmp_path).state_dict().items()}
    assert kept == {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert len(set(kept.values())) == 2
    converted = load_model(tmp_path, dtype=torch.float32)
    assert {tensor.dtype for tensor in converted.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match=r"dtype must be a floating-point type, .* but is torch.int8"):
        load_model(tmp_path, dtype=torch.int8)


def test_tied_weights_are_stored_once(tmp_path: Path):
    model = small_model("retnet", tie_embeddings=True)
    save_model(model, tmp_path)
    stored = load_file(weights_file(tmp_path))
    assert sum(tensor.numel() for tensor in stored.values()) == sum(tensor.numel() for tensor in model.parameters())
    loaded = load_model(tmp_path)
    assert loaded.decoder.head is None


def test_loading_leaves_torchs_generator_alone(saved: Path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_model_does_not_depend_on_its_file(saved: Path):
    model = load_model(saved)
    logits = model(random_tokens(1, 5)).logits
    weights_file(saved).write_bytes(b"")
    assert torch.equal(model(random_tokens(1, 5)).logits, logits)


def test_a_folder_holds_a_readable_manifest_and_one_weights_file(saved: Path):
    content = json.loads((saved / "config.json").read_text())
    assert content["config"] == json.loads(json.dumps(config_to_dict(small_config("retnet"))))
    assert (content["format"], content["format_version"], content["tokenizer"]) == ("retentive.model", 1, None)
    names = ["README.md", "config.json", "modeling_retentive.py", content["weights"]["file"]]
    assert sorted(path.name for path in saved.iterdir()) == names
    assert read_manifest(saved).library_version == content["library_version"]


def test_a_tokenizer_is_saved_beside_the_weights(tmp_path: Path):
    save_model(small_model("retnet"), tmp_path, WordTokenizer("a b"))
    assert (tmp_path / "tokenizer.json").read_text() == "a b"
    assert read_manifest(tmp_path).tokenizer_fingerprint == "fingerprint of a b"
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 7


def test_a_saved_model_is_replaced_and_other_files_stay(saved: Path):
    (saved / "notes.txt").write_text("mine")
    (saved / ".weights-0123456789abcdef.safetensors.tmp").write_text("of a save that was killed")
    other = small_model("transformer", seed=1)
    save_model(other, saved)
    assert load_model(saved).config == other.config
    names = ["README.md", "config.json", "modeling_retentive.py", "notes.txt", weights_file(saved).name]
    assert sorted(path.name for path in saved.iterdir()) == names
    save_model(other, saved)
    assert load_model(saved).config == other.config


def test_gathered_weights_take_the_place_of_the_models_own(tmp_path: Path):
    model, other = small_model("retnet"), small_model("retnet", seed=1)
    save_model(model, tmp_path, weights=other.state_dict())
    tokens = random_tokens(1, 5)
    assert torch.equal(load_model(tmp_path)(tokens).logits, other(tokens).logits)


def test_weights_that_could_not_be_loaded_are_not_saved(tmp_path: Path):
    model = small_model("retnet")
    wrapped = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    with pytest.raises(
        MismatchError, match=r"the weights to save must be .* missing .* unknown .*; save the model itself"
    ):
        save_model(model, tmp_path / "model", weights=wrapped)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("decoder.head.weight"), r"1 missing \(decoder.head.weight\)"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), r"1 unknown \(extra\)"),
        (
            lambda tensors: tensors.update({"decoder.head.weight": torch.zeros(3, 16)}),
            r"1 of another shape \(decoder.head.weight is \(3, 16\) and should be \(23, 16\)\)",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if "blocks" in name],
            r"missing \(decoder.blocks.0.* and \d+ more\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_named(saved: Path, change, message: str):
    rewrite_weights(saved, change)
    with pytest.raises(
        MismatchError, match=rf"weights-.*safetensors must be the tensors of the retnet .*{message}"
    ) as error:
        load_model(saved)
    assert "was" in str(error.value)
    assert "config.json changed by hand" in str(error.value)


def test_a_truncated_file_names_the_tensors_it_lost(saved: Path):
    path = weights_file(saved)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    sizes = f"it ends after {len(whole) - 5} of {len(whole)} bytes"
    lost = rf"{path.name} cannot be read: {sizes}, before the end of decoder\.\w"
    with pytest.raises(DamagedFileError, match=lost + ".*; copy it again"):
        load_model(saved)
    for size, message in ((100, "inside its header"), (3, "it ends after 3 bytes"), (0, "it ends after 0 bytes")):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedFileError, match=message):
            load_model(saved)


def test_a_missing_weights_file_is_named(saved: Path):
    path = weights_file(saved)
    path.unlink()
    with pytest.raises(DamagedFileError, match=rf"{path.name} is missing; copy it again"):
        load_model(saved)


def test_a_single_changed_bit_is_noticed(saved: Path):
    path = weights_file(saved)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"holds other values than were saved \(its SHA-256 differs\)"):
        load_model(saved)


def test_what_is_no_safetensors_file_is_refused(saved: Path):
    path = weights_file(saved)
    path.write_bytes(b"\x80\x04pickle" * 100)
    with pytest.raises(DamagedFileError, match=f"{path.name} cannot be read"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c["config"].update(hidden_sizes=3), MismatchError, "RetNetConfig has no option hidden_sizes"),
        (lambda c: c["config"].pop("num_heads"), MismatchError, "RetNetConfig needs num_heads, which the config lacks"),
        (lambda c: c["config"].update(family="rnn"), MismatchError, "family must be one of .*, but is 'rnn'"),
        (lambda c: c["config"].update(num_heads=3), MismatchError, "hidden_size must be a multiple of num_heads"),
        (lambda c: c["config"].update(num_heads="two"), MismatchError, "describes no model that can be made here"),
        (lambda c: c["config"].update(vocab_size=24), MismatchError, "2 of another shape"),
        (lambda c: c["config"].update(vocab_size=10**30), MismatchError, "describes no model that can be made here"),
        (lambda c: c["config"].update(num_layers=10**30), MismatchError, "describes no model that can be made here"),
        (
            lambda c: c.update(format_version=2),
            MismatchError,
            "has the format version 2, but .* written by retentive 0",
        ),
        (lambda c: c.update(format="other"), MismatchError, "must have the format 'retentive.model'"),
        (lambda c: c.pop("weights"), DamagedFileError, "lacks a part of what `save_model` writes .*weights"),
    ],
)
def test_a_config_that_cannot_be_is_refused(saved: Path, change, error: type[Exception], message: str):
    rewrite_config(saved, change)
    with pytest.raises(error, match=message) as raised:
        load_model(saved)
    assert "config.json" in str(raised.value)


@pytest.mark.parametrize(("option", "value"), [("rotary_base", 77.0), ("gate", "gelu"), ("norm_epsilon", 0.1)])
def test_an_option_that_was_changed_by_hand_is_noticed(saved: Path, option: str, value: object):
    """Its tensors have the same shapes, and the model would compute something else without a word."""
    rewrite_config(saved, lambda content: content["config"].update({option: value}))
    with pytest.raises(DamagedFileError, match=r"config.json has another config than was saved .*its SHA-256 differs"):
        load_model(saved)


def test_a_folder_of_before_configs_had_a_checksum_opens(saved: Path):
    rewrite_config(saved, lambda content: content.pop("config_sha256"))
    assert load_model(saved).config.family == "retnet"


def test_what_holds_no_model_is_refused(saved: Path, tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere must be the folder of a saved model, but there is no .*config.json"
    ):
        load_model(tmp_path / "nowhere")
    (saved / "config.json").write_text('{"format": ')
    with pytest.raises(DamagedFileError, match=r"config.json is not JSON \(.*\): copy it again"):
        load_model(saved)


FULL = """
import json, resource, signal, sys, torch
from retentive.checkpoints import save_model
from retentive.models.registry import build, config_class

class Tokenizer:
    end_of_text = 0
    def __init__(self, size):
        self.size = size
    def save(self, folder):
        (folder / "tokenizer.json").write_bytes(bytes(self.size))
    def fingerprint(self):
        return "x"

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
for folder, vocab_size, tokenizer_size in json.loads(sys.argv[1]):
    model = build(config_class("retnet")(vocab_size=vocab_size, hidden_size=32, num_layers=1, num_heads=1))
    try:
        save_model(model, folder, Tokenizer(tokenizer_size))
    except OSError as error:
        print("refused", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits file sizes as POSIX does")
def test_a_disk_that_ends_in_the_middle_leaves_what_was_there(tmp_path: Path):
    earlier, fresh = tmp_path / "earlier", tmp_path / "fresh"
    model = small_model("transformer")
    save_model(model, earlier, WordTokenizer("a"))
    before = {path.name: path.read_bytes() for path in earlier.iterdir()}
    jobs = [(str(folder), *sizes) for folder in (earlier, fresh) for sizes in ((5000, 10), (50, 500_000))]
    command = [sys.executable, "-c", FULL, json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.count("refused") == 4, done.stdout + done.stderr
    assert "could not be written" in done.stdout
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before
    assert torch.equal(load_model(earlier)(random_tokens(1, 5)).logits, model(random_tokens(1, 5)).logits)
    assert not fresh.exists()


@pytest.mark.parametrize("device", ["gpu", "", "CPU", 99, torch.device("cuda", 99)])
def test_a_device_that_is_not_there_is_refused(saved: Path, device: torch.device | str | int):
    rule = "device must be one that torch finds on this machine, such as 'cpu'"
    with pytest.raises(ValueError, match=rf"^{rule}.*, but is '{device}'\.$"):
        load_model(saved, device)
