"""A memory around a model of Hugging Face: windows, adapters of every kind, and files that were changed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from huggingface.recurrent_memory.test_model import CLOSE, VOCAB, around, backbone, tokens
from retentive.errors import DamagedFileError
from retentive.huggingface import load_memory, save_memory

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

WIDTH = 9
"""Columns of a segment of five tokens between two memory tokens and two."""
SIZES = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
WINDOWED = {
    "MistralConfig": {"sliding_window": WIDTH, "intermediate_size": 20, "num_key_value_heads": 1},
    "GPTNeoConfig": {"window_size": WIDTH, "attention_types": [[["global", "local"], 1]], "num_layers": 2},
}


@pytest.mark.parametrize("name", WINDOWED)
def test_rows_at_different_places_of_a_model_with_a_window_are_read_as_alone(name: str):
    torch.manual_seed(0)
    config = getattr(transformers, name)(**SIZES, **SPECIAL, **WINDOWED[name], initializer_range=0.3)
    model = around(transformers.AutoModelForCausalLM.from_config(config).eval())
    text, place = tokens(2, 30), 0
    states: list[Any] = [None, None]
    together = None
    with torch.no_grad():
        for time in (4, 5, 1, 6):
            piece = text[:, place : place + time]
            mask = torch.ones_like(piece, dtype=torch.bool)
            mask[0, time // 2 + 1 :] = False  # the first row falls behind
            output = model(piece, together, mask=mask)
            together, place = output.state, place + time
            for row in range(2):
                alone = model(piece[row, mask[row]][None], states[row])
                states[row] = alone.state
                torch.testing.assert_close(output.logits[row, mask[row]], alone.logits[0], **CLOSE)


def test_what_is_no_causal_model_is_refused_by_name():
    sizes = {**SIZES, "intermediate_size": 20}
    bert = transformers.BertConfig(**sizes)
    for kind in (transformers.BertLMHeadModel, transformers.BertForMaskedLM):
        with pytest.raises(ValueError, match=rf"sees those before it alone, but this {kind.__name__} is not"):
            around(kind(bert))
    around(transformers.BertLMHeadModel(transformers.BertConfig(**sizes, is_decoder=True)))
    around(
        transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes))
    )  # says nothing of a decoder, and is one
    with pytest.raises(ValueError, match="this LlamaModel is not: load one with AutoModelForCausalLM"):
        around(backbone().model)
    with pytest.raises(TypeError, match="backbone must be a model of transformers, but is a Linear"):
        around(torch.nn.Linear(2, 2))
    virtual = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="that puts virtual tokens before a text"):
        around(peft.get_peft_model(backbone(), virtual))


ADAPTERS = {
    "lora and a whole head": lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "lora of the table": lambda: peft.LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]),
    "dora": lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True),
    "some rows of the table": lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[0, 3]),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_of_any_kind_is_saved(kind: str, tmp_path: Path):
    inner = peft.get_peft_model(backbone(), ADAPTERS[kind]())
    with torch.no_grad():
        for parameter in inner.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model = around(inner)
    save_memory(model, tmp_path)
    text = tokens(2, 12)
    with torch.no_grad():
        expected = model(text).logits
        torch.testing.assert_close(load_memory(backbone(), tmp_path)(text).logits, expected, **CLOSE)
        assert (around(backbone())(text).logits - expected).abs().max() > 1e-3


def test_a_memory_that_was_changed_on_disk_is_refused(tmp_path: Path):
    save_memory(around(backbone().requires_grad_(False)), tmp_path)
    weights, settings = tmp_path / "memory.safetensors", tmp_path / "memory.json"
    whole, said = weights.read_bytes(), settings.read_text()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedFileError, match=r"memory\.safetensors holds other values than were saved"):
        load_memory(backbone(), tmp_path)
    weights.write_bytes(whole)
    settings.write_text(said.replace('"write_start": "memory"', '"write_start": "learned"'))
    with pytest.raises(DamagedFileError, match=r"memory\.json says something else than was saved"):
        load_memory(backbone(), tmp_path)
    earlier = {name: value for name, value in json.loads(said).items() if "sha256" not in name}
    settings.write_text(json.dumps(earlier))
    load_memory(backbone(), tmp_path)
