"""Transformers reads some folders by rules of a class, and not by the ``tokenizer.json``: ours gives the same ids."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, processors
from transformers import AutoTokenizer

from huggingface.published import byte_style
from retentive.huggingface import register
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import encode_prompt
from text.vocabularies import sentencepiece_style

register()

TEXTS = ["", "the cat", " the cat", "  the  at", "\n the", "a<s> the </s>b", "<tool> the", "12345 é", "a\u0301 the\t"]
FOLDERS: dict[str, tuple[str, str | None, str, dict[str, Any]]] = {
    "gpt2": ("bytes", "GPT2Tokenizer", "gpt2", {}),
    "gpt2, a space before": ("bytes", "GPT2Tokenizer", "gpt2", {"add_prefix_space": True}),
    "gpt2, a space before, a begin": (
        "bytes",
        "GPT2Tokenizer",
        "gpt2",
        {"add_prefix_space": True, "add_bos_token": True},
    ),
    "qwen2": ("bytes", "Qwen2TokenizerFast", "qwen2", {}),
    "qwen2, a space before": ("bytes", "Qwen2Tokenizer", "qwen2", {"add_prefix_space": True}),
    "qwen2 by its model": ("bytes", "PreTrainedTokenizerFast", "qwen2", {}),
    "qwen2 of no class": ("bytes", None, "qwen2", {}),
    "llama": ("pieces", "LlamaTokenizer", "llama", {}),
    "llama, as it was": ("pieces", "LlamaTokenizerFast", "llama", {"legacy": True}),
    "llama, anew": ("pieces", "LlamaTokenizerFast", "llama", {"legacy": False}),
    "llama, no space before": ("pieces", "LlamaTokenizer", "llama", {"add_prefix_space": False}),
    "llama, a begin": ("pieces", "LlamaTokenizer", "llama", {"add_bos_token": True, "legacy": False}),
    "llama, an end": ("pieces", "LlamaTokenizer", "llama", {"add_bos_token": False, "add_eos_token": True}),
    "llama of no class": ("pieces", None, "llama", {}),
    "llama of bytes": ("bytes", "LlamaTokenizerFast", "llama", {}),
    "mistral": ("pieces", "LlamaTokenizer", "mistral", {"add_prefix_space": True}),
    "gemma": ("pieces", "GemmaTokenizer", "gemma", {}),
    "as it is": ("pieces", "PreTrainedTokenizerFast", "llama", {"add_prefix_space": False}),
    "a class of nobody": ("pieces", "MyOwnTokenizer", "llama", {}),
}


def folder_of(name: str, folder: Path) -> Path:
    """Write a vocabulary with what transformers keeps beside it."""
    style, class_name, model_type, settings = FOLDERS[name]
    library: Tokenizer = byte_style() if style == "bytes" else sentencepiece_style()
    specials = [AddedToken(tag, special=True, normalized=False) for tag in ("<s>", "</s>", "<unk>", "<|endoftext|>")]
    library.add_special_tokens(specials)
    library.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", library.token_to_id("<s>"))]
    )
    folder.mkdir()
    library.save(str(folder / "tokenizer.json"))
    named = {} if class_name is None else {"tokenizer_class": class_name}
    said = {**named, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_those_of_the_class_that_reads_the_folder(name: str, tmp_path: Path):
    source, copied = folder_of(name, tmp_path / "source"), tmp_path / "copied"
    theirs: Any = AutoTokenizer.from_pretrained(source)
    ours = load_tokenizer(source)
    ours.save(copied)
    (copied / "config.json").write_text(json.dumps({"model_type": "retentive"}))
    again, copy = load_tokenizer(copied), AutoTokenizer.from_pretrained(copied)
    assert ours.fingerprint() == again.fingerprint()
    assert (copy.bos_token, copy.eos_token, copy.padding_side) == (
        theirs.bos_token,
        theirs.eos_token,
        theirs.padding_side,
    )
    for text in TEXTS:
        wanted = theirs(text).input_ids
        assert encode_prompt(ours, text, tags=True) == wanted, text
        assert encode_prompt(again, text, tags=True) == wanted, text
        assert copy(text).input_ids == wanted, text
        assert copy.decode(wanted) == theirs.decode(wanted)


@pytest.mark.parametrize("name", ["gpt2, a space before", "llama, no space before"])
def test_without_transformers_a_setting_beside_the_file_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = folder_of(name, tmp_path / "source")
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"add_prefix_space.*tokenizer_config\.json.*pip install 'retentive\[hf\]'"):
        load_tokenizer(source)
