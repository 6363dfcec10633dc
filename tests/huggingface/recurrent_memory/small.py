"""Small models of Hugging Face, and a memory around them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retentive import generate, load_state, save_state
from retentive.data.batch import IGNORED, Batch
from retentive.huggingface import HuggingFaceMemoryConfig, HuggingFaceRecurrentMemory

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

VOCAB = 23
SIZES: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "LlamaForCausalLM": {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "GPTNeoXForCausalLM": {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
    },
    "MambaForCausalLM": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}
CLOSE = {"rtol": 0, "atol": 1e-5}


def backbone(name: str = "LlamaForCausalLM") -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    model = kind(kind.config_class(vocab_size=VOCAB, initializer_range=0.2, **special, **SIZES[name]))
    return model.eval()


def around(model: Any, segment_length: int = 5, num_memory_tokens: int = 2, **changes: Any) -> Any:
    torch.manual_seed(1)
    config = HuggingFaceMemoryConfig(segment_length=segment_length, num_memory_tokens=num_memory_tokens, **changes)
    return HuggingFaceRecurrentMemory(model, config).eval()


def tokens(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))


def copied(number: int) -> Batch:
    """The first token of the first segment is asked for at the end of the third."""
    x = tokens(16, 15, seed=number)
    x[:, 0] = x[:, 0] % 4
    labels = torch.full_like(x, IGNORED)
    labels[:, -1] = x[:, 0]
    return Batch(tokens=x, labels=labels, starts=torch.zeros_like(x, dtype=torch.bool))


def with_lora(model: Any) -> Any:
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))


def check_generation(model: Any, folder: Path) -> None:
    """Check that tokens are those of reading the text again, and that a saved state goes on as if it had not ended."""
    prompts = [tokens(1, 4)[0], tokens(1, 9, seed=2)[0]]
    result = generate(model, prompts, max_new_tokens=9)
    for prompt, new in zip(prompts, result.tokens, strict=True):
        with torch.no_grad():
            logits = model(torch.cat((prompt, new))[None]).logits
        assert torch.equal(logits[0, len(prompt) - 1 : -1].argmax(-1), new)
    save_state(result.state, folder / "state.safetensors", model)
    later = generate(model, state=load_state(folder / "state.safetensors", model), max_new_tokens=4).tokens
    longer = generate(model, prompts, max_new_tokens=13).tokens
    assert all(torch.equal(torch.cat(parts), whole) for *parts, whole in zip(result.tokens, later, longer, strict=True))
