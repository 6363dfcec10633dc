"""Folders as their authors publish them: tiny models and tokenizers with the conventions of real ones."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from retentive.text.token_bytes import byte_level_table
from text.vocabularies import sentencepiece_style

CHAT = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.5,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512, "initializer_range": 0.5}


@dataclass(frozen=True)
class Convention:
    """What a published folder says of begin, end and pad.

    Attributes:
        family: Of the model.
        style: Of the vocabulary: ``bytes`` or ``pieces``.
        around: What the tokenizer puts around a text, as tokens before and after it.
        special: Of transformers' tokenizer.
        rows: Of the model's table beyond the tokenizer's ids.
        model: Further settings of the model.
        generation: Of ``generation_config.json``.
        tokenizer_class: As the folder names it.
    """

    family: str
    style: str = "bytes"
    around: tuple[str, str] = ("", "")
    special: dict[str, str | None] = field(default_factory=dict)
    rows: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    tokenizer_class: str = "PreTrainedTokenizerFast"


BOTH = {"bos_token": "<s>", "eos_token": "</s>"}
CONVENTIONS = {
    "llama 3": Convention(
        "Llama", "bytes", ("<s>", ""), BOTH, rows=7, generation={"eos_token_id": "both", "do_sample": False}
    ),
    "mistral": Convention(
        "Mistral",
        "pieces",
        ("<s>", ""),
        {**BOTH, "pad_token": "</s>"},
        model={"sliding_window": 6, "rope_theta": 500.0},
    ),
    "qwen2": Convention(
        "Qwen2",
        special={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        rows=9,
        tokenizer_class="Qwen2Tokenizer",
    ),
    "gpt2": Convention("GPT2", special={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
    "with an end": Convention("Llama", "bytes", ("<s>", "</s>"), {**BOTH, "pad_token": "<|endoftext|>"}),
}
TAGS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>")


def byte_style() -> Tokenizer:
    """Bytes and a few merges of them, as GPT-2 has."""
    vocabulary = {**byte_level_table(), "Ġt": 256, "he": 257, "Ġthe": 258, "at": 259}
    library = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("a", "t")]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def _vocabulary(convention: Convention) -> Tokenizer:
    library = sentencepiece_style() if convention.style == "pieces" else byte_style()
    library.add_special_tokens([AddedToken(tag, special=True, normalized=False) for tag in TAGS])
    library.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    before, after = convention.around
    if before or after:
        tokens = [(token, library.token_to_id(token)) for token in (before, after) if token]
        single = " ".join(part for part in (before, "$A", after) if part)
        library.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} $B", special_tokens=tokens
        )
    return library


def publish(folder: Path, name: str) -> Path:
    """Write a folder of a convention."""
    convention = CONVENTIONS[name]
    library = _vocabulary(convention)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=library, chat_template=CHAT, **convention.special)
    tokenizer.save_pretrained(folder)
    _edit(folder / "tokenizer_config.json", tokenizer_class=convention.tokenizer_class)
    torch.manual_seed(1)
    ids = {role: getattr(tokenizer, role) for role in ("bos_token_id", "eos_token_id", "pad_token_id")}
    size = {"vocab_size": len(tokenizer) + convention.rows}
    sizes = GPT2 if convention.family == "GPT2" else SIZES
    config = getattr(transformers, f"{convention.family}Config")(**sizes, **size, **convention.model, **ids)
    model_name = "GPT2LMHeadModel" if convention.family == "GPT2" else f"{convention.family}ForCausalLM"
    model = getattr(transformers, model_name)(config).eval()
    with torch.no_grad():  # rows of no token, which training never saw
        model.get_input_embeddings().weight[len(tokenizer) :] = 0
        model.get_output_embeddings().weight[len(tokenizer) :] = 0
    model.save_pretrained(folder)
    ends = [library.token_to_id("</s>"), library.token_to_id("<|im_end|>")]
    changes = {key: ends if value == "both" else value for key, value in convention.generation.items()}
    _edit(folder / "generation_config.json", **changes)
    return folder


def _edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}, indent=2))
