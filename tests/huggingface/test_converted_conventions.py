"""What a converted folder says of begin, end, pad, tags and sampling is what its source says: token for token."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from huggingface.published import CONVENTIONS, TAGS, publish
from retentive import load_model
from retentive.checkpoints.model_card import model_card
from retentive.cli.main import main
from retentive.data.evaluation_windows import EvaluationWindows
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.token_store import TokenStore
from retentive.errors import DamagedFileError
from retentive.evaluation.harness.model import RetentiveLM
from retentive.generation import Sampling, generate
from retentive.generation.text_stream import TextStream
from retentive.huggingface import register
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import Tokenizer, encode_prompt, ids_without_text

register()

TEXTS = [
    "the cat sat on the mat",
    "déjà vu",
    "Rain <tool> falls\nthen",
    "a</s>b <s> c<|im_end|>",
    "<|im_start|>user\nhi<|im_end|>",
]
CHAT = [{"role": "user", "content": "the hat?"}, {"role": "assistant", "content": "that"}]


@dataclass
class Pair:
    """A published folder and what it was converted into, with what transformers makes of both."""

    source: Path
    ours: Path

    def __post_init__(self) -> None:
        self.tokenizers: list[Any] = [AutoTokenizer.from_pretrained(folder) for folder in (self.source, self.ours)]
        self.models: list[Any] = [AutoModelForCausalLM.from_pretrained(folder) for folder in (self.source, self.ours)]
        self.tokenizer: Tokenizer = load_tokenizer(self.ours)


@pytest.fixture(scope="module", params=CONVENTIONS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("published")
    publish(folder / "source", request.param)
    main(["convert", str(folder / "source"), str(folder / "ours")])
    return Pair(folder / "source", folder / "ours")


def test_ids_of_texts_and_chats_are_those_of_the_source(pair: Pair):
    source, ours = pair.tokenizers
    for text in ("", *TEXTS):
        assert ours(text)["input_ids"] == source(text)["input_ids"]
        assert encode_prompt(pair.tokenizer, text, tags=True) == source(text)["input_ids"]
        ids = source(text)["input_ids"]
        assert ours.decode(ids, skip_special_tokens=True) == source.decode(ids, skip_special_tokens=True)
    for options in ({}, {"add_generation_prompt": True}):
        expected = source.apply_chat_template(CHAT, return_dict=False, **options)
        assert ours.apply_chat_template(CHAT, return_dict=False, **options) == expected
        assert source.convert_tokens_to_ids("<|im_start|>") in expected
    assert (ours.bos_token, ours.eos_token) == (source.bos_token, source.eos_token)
    assert ours.padding_side == source.padding_side


def test_special_tokens_in_a_document_stay_text(pair: Pair):
    special = set(pair.tokenizers[0].convert_tokens_to_ids(list(TAGS)))
    for text in TEXTS:
        ids = pair.tokenizer.encode(text)
        assert not special & set(ids)
        if "<tool>" not in text:  # after which a tokenizer may put the space that it puts before a text
            assert pair.tokenizer.decode(ids) == text


def test_a_pad_is_no_end(pair: Pair):
    source, ours = pair.tokenizers
    named = source.pad_token if source.pad_token != source.eos_token else None
    assert ours.pad_token == (named or "<|pad|>") != ours.eos_token
    model = pair.models[1]
    assert model.config.pad_token_id == ours.pad_token_id == pair.tokenizer.pad
    assert model.config.eos_token_id == pair.models[0].config.eos_token_id
    assert model.config.bos_token_id == pair.models[0].config.bos_token_id
    for side in ("left", "right"):
        batch = ours(["the", "the cat sat"], padding=True, padding_side=side, return_tensors="pt")
        logits = model(**batch).logits
        expected = pair.models[0](batch["input_ids"][1:]).logits
        torch.testing.assert_close(logits[1:], expected, rtol=1e-4, atol=1e-4)


def test_transformers_generates_the_same(pair: Pair):
    source, ours = pair.models
    given = {name: getattr(source.generation_config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    assert given == {name: getattr(ours.generation_config, name) for name in given}
    ids = pair.tokenizers[0](TEXTS[0], return_tensors="pt")["input_ids"]
    for options in ({}, {"do_sample": True, "top_k": 5}, {"repetition_penalty": 1.3}):
        torch.manual_seed(0)
        expected = source.generate(ids, max_new_tokens=12, **options)
        torch.manual_seed(0)
        assert ours.generate(ids, max_new_tokens=12, **options).tolist() == expected.tolist()


def test_our_command_writes_the_same(pair: Pair, capsys: pytest.CaptureFixture[str]):
    source, tokenizer = pair.models[0], pair.tokenizers[0]
    options = ["--max-new-tokens", "9", "--temperature", "0", "--device", "cpu"]
    for text in TEXTS[:3]:
        main(["generate", str(pair.ours), "--prompt", text, *options])
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        new = source.generate(ids, max_new_tokens=9)[0, ids.shape[1] :]
        reader = TextStream(pair.tokenizer)
        expected = "".join(map(reader.push, new.tolist())) + reader.finish()
        assert capsys.readouterr().out.strip() == expected.strip()


def test_the_harness_measures_the_same(pair: Pair):
    # Alone, for `hf` asks the first text of a batch whether any of them has its begin already.
    hf = [HFLM(pretrained=str(folder), device="cpu", batch_size=1) for folder in (pair.source, pair.ours)]
    ours = RetentiveLM(pair.ours, device="cpu", batch_size=2)
    pairs = [(TEXTS[0], " on the hat"), ("", "the"), ("a", " b"), (TEXTS[3], "d</s>"), ("<s> the", "at")]
    chat = ours.apply_chat_template(CHAT[:1])
    assert chat == hf[0].apply_chat_template(CHAT[:1])
    assert ours.chat_template(True) == hf[0].chat_template(True)
    pairs.append((chat, "that"))
    asked = [Instance(request_type="loglikelihood", doc={}, arguments=each, idx=0) for each in pairs]
    rolling = [Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0) for text in TEXTS]
    wanted = {"max_gen_toks": 8, "do_sample": False, "until": ["\n\n"]}
    writing = [
        Instance(request_type="generate_until", doc={}, arguments=(text, wanted), idx=0) for text in (*TEXTS, chat)
    ]
    expected, *others = [
        (
            [value for value, _ in each.loglikelihood(asked, disable_tqdm=True)],
            each.loglikelihood_rolling(rolling, disable_tqdm=True),
            each.generate_until(writing, disable_tqdm=True),
        )
        for each in (*hf, ours)
    ]
    for found in others:
        assert found[0] == pytest.approx(expected[0], abs=1e-4)
        assert found[1] == pytest.approx(expected[1], abs=1e-4)
        assert found[2] == expected[2]


def test_the_harness_writes_by_the_penalty_that_comes_with_a_model(pair: Pair, tmp_path: Path):
    said = {"repetition_penalty": 1.4}
    folders = [copytree(folder, tmp_path / folder.name) for folder in (pair.source, pair.ours)]
    for folder in folders:
        path = folder / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **said}))
    wanted = {"max_gen_toks": 12, "do_sample": False, "until": ["\n\n"]}
    asked = [Instance(request_type="generate_until", doc={}, arguments=(text, wanted), idx=0) for text in TEXTS]
    expected = HFLM(pretrained=str(folders[0]), device="cpu", batch_size=1).generate_until(asked, disable_tqdm=True)
    assert RetentiveLM(folders[1], device="cpu", batch_size=2).generate_until(asked, disable_tqdm=True) == expected
    measured = RetentiveLM(folders[1], device="cpu")
    for name, value in {"no_repeat_ngram_size": 2, "num_beams": 3, "min_new_tokens": 4, "suppress_tokens": [5]}.items():
        path.write_text(json.dumps({name: value, "num_beam_groups": 1, "bad_words_ids": None, "top_k": 7}))
        with pytest.raises(ValueError, match=rf"generation_config.json sets {name}=.*, by which transformers writes"):
            measured.generate_until(asked, disable_tqdm=True)
    path.write_text(json.dumps({"repetition_penalty": 0}))
    with pytest.raises(
        DamagedFileError, match=r"generation_config.json must name a repetition_penalty above 0, but has 0"
    ):
        RetentiveLM(folders[1], device="cpu")


@torch.no_grad()
def test_documents_are_measured_after_their_begin(pair: Pair, tmp_path: Path):
    texts = TEXTS[:3]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = {"tokenizer": str(pair.ours), "heldout_fraction": 0.0}
    prepare(PrepareConfig(source=tmp_path / "texts.jsonl", output=tmp_path / "store", **options))
    store = TokenStore.open(tmp_path / "store")
    assert store.tokenizer.fingerprint() == pair.tokenizer.fingerprint()
    source, tokenizer = pair.models[0], pair.tokenizers[0]
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    model, found, expected = load_model(pair.ours), 0.0, 0.0
    for batch in EvaluationWindows(store, "train", window=64, stride=64, batch_size=1):
        logits = model(batch.tokens, mask=batch.mask).logits.log_softmax(-1)[0]
        real = batch.mask[0]
        found += float(logits[real].gather(1, batch.labels[0][real, None]).sum())
    for text in texts:
        ids = torch.tensor([[begin, *tokenizer.encode(text, add_special_tokens=False)]])
        logits = source(ids).logits.log_softmax(-1)[0, :-1]
        expected += float(logits.gather(1, ids[0, 1:, None]).sum())
    assert math.isclose(found, expected, abs_tol=1e-3)


def test_an_id_without_text_is_never_drawn(pair: Pair):
    ours = load_model(pair.ours)
    never = ids_without_text(pair.tokenizer, ours.config.vocab_size)
    assert len(never) == ours.config.vocab_size - len(pair.tokenizers[0])
    ours.decoder.head = torch.nn.Linear(16, ours.config.vocab_size)
    with torch.no_grad():
        ours.decoder.head.bias[list(never)] = 100.0
    for sampling in (Sampling(never=never), Sampling(temperature=2.0, seed=0, never=never)):
        (tokens,) = generate(ours, [1], max_new_tokens=20, sampling=sampling).tokens
        assert not set(tokens.tolist()) & set(never)
    if never:
        assert set(generate(ours, [1], max_new_tokens=5).tokens[0].tolist()) <= set(never)


def test_the_card_names_the_origin(pair: Pair):
    card = model_card(pair.ours)
    assert "Converted from source (" in card
    assert "That of its origin: no file beside the weights named one." in card
