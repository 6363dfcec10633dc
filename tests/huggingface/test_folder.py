"""Folders: what we save is read by transformers, and what it saves leads back to us."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from laws.families import case_name, cases, random_tokens, small_config, small_model
from retentive.checkpoints import load_model, save_model
from retentive.errors import MismatchError
from retentive.huggingface import RetentiveConfig, RetentiveForCausalLM, RetentiveForSequenceClassification, register
from retentive.huggingface.cache import CACHE_NAME
from retentive.layers.quantised import QuantisationConfig
from retentive.models.quantise import quantise
from retentive.models.registry import family_names

register()

EVERY_CASE = pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)


@EVERY_CASE
def test_a_saved_folder_is_read_bit_for_bit(family: str, changes: dict, tmp_path: Path):
    ours = small_model(family, dtype=torch.float32, **changes)
    save_model(ours, tmp_path / "ours")
    config = AutoConfig.from_pretrained(tmp_path / "ours")
    assert config.family_config == ours.config
    decoder = ours.config.decoder
    assert (config.vocab_size, config.hidden_size) == (decoder.embedding.vocab_size, decoder.embedding.hidden_size)
    assert (config.num_hidden_layers, config.num_attention_heads) == (decoder.num_layers, decoder.num_heads)
    theirs, notes = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(notes.values()), notes
    expected, found = ours.state_dict(), theirs.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="4KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    again, notes = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(notes.values()), notes
    tokens = random_tokens(1, 9)
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)
    assert again.config.family_config == ours.config


def test_the_architecture_of_a_folder_is_a_class_of_transformers(tmp_path: Path):
    # Programs such as `transformers serve` look it up in the module, without an Auto class between.
    ours = small_model("retnet", dtype=torch.float32)
    save_model(ours, tmp_path / "ours")
    RetentiveForCausalLM.of(ours).save_pretrained(tmp_path / "theirs")
    RetentiveForSequenceClassification(small_config("retnet")).save_pretrained(tmp_path / "labels")
    kinds = {"ours": RetentiveForCausalLM, "theirs": RetentiveForCausalLM, "labels": RetentiveForSequenceClassification}
    for name, kind in kinds.items():
        (architecture,) = json.loads((tmp_path / name / "config.json").read_text())["architectures"]
        assert isinstance(getattr(transformers, architecture).from_pretrained(tmp_path / name), kind)


def test_a_replaced_model_is_the_one_that_is_read(tmp_path: Path):
    save_model(small_model("transformer"), tmp_path)
    other = small_model("retnet", seed=1, dtype=torch.float32)
    save_model(other, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).model.config == other.config


def test_what_a_folder_lacks_is_filled_by_the_rules_of_the_family(tmp_path: Path):
    ours = small_model("retnet", dtype=torch.float32)
    save_model(ours, tmp_path)
    (path,) = tmp_path.glob("weights-*.safetensors")
    tensors = load(path.read_bytes())  # not mapped, as the file is written over
    del tensors["decoder.head.weight"]
    save_file(tensors, path, {"format": "pt"})
    theirs, notes = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert list(notes["missing_keys"]) == ["model.decoder.head.weight"]
    head = theirs.model.decoder.head.weight
    assert 0.5 < head.std() * 16**0.5 < 2
    assert torch.equal(theirs.model.decoder.norm.weight, ours.decoder.norm.weight)


def test_reduced_precision_keeps_the_decays(tmp_path: Path):
    ours = small_model("retnet", dtype=torch.float32)
    save_model(ours, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in theirs.parameters()} == {torch.bfloat16}
    output = theirs(random_tokens(1, 40))
    assert output[CACHE_NAME].state.layers[0].kv.dtype is torch.float32
    expected = load_model(tmp_path, dtype=torch.bfloat16)(random_tokens(1, 40)).logits
    assert torch.equal(output.logits, expected)


def test_a_model_can_be_made_from_a_config_alone():
    torch.manual_seed(0)
    made = RetentiveForCausalLM(small_config("retnet"))
    torch.manual_seed(0)
    auto = AutoModelForCausalLM.from_config(RetentiveConfig(small_config("retnet")))
    torch.manual_seed(0)
    from retentive.models.registry import build

    expected = build(small_config("retnet")).state_dict()
    for model in (made, auto):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.model.state_dict().items())


def test_our_loader_says_what_to_do_with_a_folder_of_transformers(tmp_path: Path):
    RetentiveForCausalLM(small_config("retnet")).save_pretrained(tmp_path)
    with pytest.raises(MismatchError, match=r"written by transformers.*save_model\(model.model, folder\)"):
        load_model(tmp_path)


def test_a_config_that_cannot_be_is_refused(tmp_path: Path):
    save_model(small_model("retnet"), tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    content["config"]["num_heads"] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(MismatchError, match="config describes no model that can be made here: hidden_size must be a"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_quantised_folder_is_refused_by_name(tmp_path: Path):
    model = small_model("retnet", dtype=torch.float32)
    quantise(model, QuantisationConfig(bits=8))
    save_model(model, tmp_path)
    with pytest.raises(MismatchError, match=r"weights of floats, but this one is quantised: load it with retentive\."):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_an_encoder_is_no_causal_model():
    with pytest.raises(ValueError, match="model must predict the next token, but this rmt is an encoder"):
        RetentiveForCausalLM(small_config("rmt", bidirectional=True))


# One of them; each costs half a minute, and the laws compile training of every family.
COMPILED_ALWAYS = ("retnet",)

# In a process of its own: torch.compile cannot trace functions whose shapes are checked at run time.
COMPILED = """
import sys
import torch
from laws.families import random_tokens, small_model
from retentive.huggingface import RetentiveForCausalLM
from retentive.huggingface.cache import CACHE_NAME

tokens = random_tokens(2, 11)
model = RetentiveForCausalLM.of(small_model(sys.argv[1], dtype=torch.float32))
compiled = torch.compile(model, backend="aot_eager")
results = []
for call in (model, compiled):
    model.zero_grad()
    output = call(tokens, labels=tokens)
    output.loss.backward()
    results.append((output.loss, output.logits, model.get_input_embeddings().weight.grad.clone()))
for plain, fast in zip(*results):
    assert (plain - fast).abs().max() < 1e-5 * plain.abs().max()
with torch.no_grad():
    first = compiled(tokens[:, :7])
    rest = compiled(tokens[:, 7:], cache=first[CACHE_NAME]).logits
assert (rest - results[0][1][:, 7:]).abs().max() < 1e-4
"""


@pytest.mark.parametrize(
    "family",
    [name if name in COMPILED_ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in family_names()],
)
def test_a_compiled_forward(family: str):
    folder = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", COMPILED, family], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


LIGHT = """
import sys
import retentive, retentive.huggingface
from retentive.huggingface import __all__
heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "lm_eval", "safetensors", "numpy", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
from retentive import load_model, save_model, generate, RetNet
heavy -= {"torch", "safetensors", "numpy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_nothing_heavy_is_imported_before_it_is_used():
    run = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_no_name_holds_a_word_that_changes_what_transformers_does():
    words = ("mamba", "rwkv", "xlstm", "minimax", "reformer", "xlnet")
    for name in (RetentiveForCausalLM.__name__, RetentiveConfig.__name__, RetentiveConfig.model_type):
        assert not any(word in name.lower() for word in words)


MISSING = """
import sys
sys.modules["transformers"] = None
try:
    from retentive.huggingface import register
except ImportError as error:
    print(error)
"""


def test_without_transformers_the_cure_is_told():
    run = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True, check=True)
    assert "retentive.huggingface.register needs transformers 5.0 or newer" in run.stdout
    assert "pip install 'retentive[hf]'" in run.stdout
