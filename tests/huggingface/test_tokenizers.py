"""AutoTokenizer reads the tokenizer of a saved model's folder and gives our ids."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
)

from laws.families import small_model
from retentive.checkpoints import save_model
from retentive.huggingface import register
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.loading import load_tokenizer
from retentive.text.nucleotide_tokenizer import NucleotideTokenizer
from retentive.text.subword_tokenizer import train_bpe
from retentive.text.tokenizer import Tokenizer, encode_prompt

register()

SENTENCES = [
    "the cat sat on the mat",
    "déjà vu — ça va?",
    "  two  spaces\n\tand tabs ",
    "<|endoftext|> as text",
    "日本語 🙂",
]
Pair = tuple[Tokenizer, PreTrainedTokenizerBase]


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One of our tokenizers, and what transformers makes of its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    ours: Tokenizer = ByteTokenizer() if request.param == "bytes" else train_bpe(SENTENCES * 5, vocab_size=300)
    ours.save(folder)
    assert load_tokenizer(folder).fingerprint() == ours.fingerprint()
    return ours, AutoTokenizer.from_pretrained(folder)


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=30) | st.sampled_from(SENTENCES))
@settings(deadline=None, max_examples=60)
def test_ids_and_texts_are_ours(pair: Pair, text: str):
    ours, theirs = pair
    ids = ours.encode(text)
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert theirs(text)["input_ids"] == [ours.end_of_text, *ids]
    assert theirs.decode([ours.end_of_text, *ids], skip_special_tokens=True) == ours.decode(ids) == text


def test_special_tokens_are_end_of_text_and_batches_are_padded_at_the_left(pair: Pair):
    ours, theirs = pair
    assert theirs.bos_token_id == theirs.eos_token_id == ours.end_of_text
    assert len(theirs) == ours.vocab_size
    batch = theirs(["a", "abc"], padding=True)
    assert batch["attention_mask"][0][0] == 0
    assert batch["attention_mask"][1] == [1] * len(batch["input_ids"][1])


def test_a_tokenizer_survives_transformers_own_saving(pair: Pair, tmp_path: Path):
    ours, theirs = pair
    theirs.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in SENTENCES:
        assert again(text)["input_ids"] == [ours.end_of_text, *ours.encode(text)]


@pytest.mark.parametrize("kind", ["bytes", "bpe", "nucleotides"])
def test_the_standard_collator_keeps_every_end(kind: str, tmp_path: Path):
    ours: Tokenizer = {
        "bytes": ByteTokenizer,
        "bpe": lambda: train_bpe(SENTENCES * 5, vocab_size=300),
        "nucleotides": NucleotideTokenizer,
    }[kind]()
    save_model(small_model("retnet", vocab_size=ours.vocab_size), tmp_path, ours)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    pad = AutoConfig.from_pretrained(tmp_path).pad_token_id
    assert pad == theirs.pad_token_id == ours.pad != ours.end_of_text
    texts = ["GATTACA", "GA"]
    rows = [[ours.end_of_text, *ours.encode(text), ours.end_of_text] for text in texts]
    batch = DataCollatorForLanguageModeling(theirs, mlm=False)([{"input_ids": row} for row in rows])
    columns = (batch[name] for name in ("input_ids", "labels", "attention_mask"))
    for row, ids, labels, mask in zip(rows, *columns, strict=True):
        width = len(ids) - len(row)
        assert ids.tolist() == [pad] * width + row
        assert labels.tolist() == [-100] * width + row
        assert mask.tolist() == [0] * width + [1] * len(row)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = sum(theirs(torch.tensor([row]), labels=torch.tensor([row])).loss * (len(row) - 1) for row in rows)
    torch.testing.assert_close(theirs(**batch).loss, expected / sum(len(row) - 1 for row in rows))


@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=30) | st.sampled_from(["ÿ", "<|pad|>"]))
@settings(deadline=None, max_examples=60)
def test_no_text_holds_the_pad_token(pair: Pair, text: str):
    ours, theirs = pair
    assert theirs.pad_token_id not in ours.encode(text)
    assert theirs.pad_token_id not in theirs(text)["input_ids"]
    assert ours.token_bytes(theirs.pad_token_id) in (b"", b"\xff")


FILES = {
    "tokenizer_config.json": {"added_tokens_decoder": {"300": {"content": "<mine>", "special": False}}},
    "added_tokens.json": {"<mine>": 300},
    "special_tokens_map.json": {"additional_special_tokens": ["<mine>"]},
}


@pytest.mark.parametrize("name", FILES)
def test_tokens_that_only_a_file_beside_a_vocabulary_adds_come_along(name: str, tmp_path: Path):
    source, copied = tmp_path / "source", tmp_path / "copied"
    train_bpe(["some text", "some more"], vocab_size=270).save(source)
    for path in source.iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (source / "tokenizer_config.json").write_text(json.dumps(named))
    beside = source / name
    beside.write_text(json.dumps({**(json.loads(beside.read_text()) if beside.exists() else {}), **FILES[name]}))
    theirs = AutoTokenizer.from_pretrained(source)
    ours = load_tokenizer(source)
    ours.save(copied)
    for text in ("some<mine>text", "<mine>"):
        wanted = theirs(text).input_ids
        assert encode_prompt(ours, text, tags=True) == wanted
        assert encode_prompt(load_tokenizer(copied), text, tags=True) == wanted
        assert AutoTokenizer.from_pretrained(copied)(text).input_ids == wanted
