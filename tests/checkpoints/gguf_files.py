"""Small GGUF files, written with the gguf package as llama.cpp's converter does."""

import json
import random
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEXT = ["The quick brown fox jumps over the lazy dog, 1234 times; isn't it?\n", "def f(x):\n    return x**2\n"] * 4
VOCAB = 320
LLAMA_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def llama(**options: Any) -> LlamaForCausalLM:
    """A Llama of random weights that are large enough to tell errors."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = LlamaConfig(vocab_size=VOCAB, **(sizes | options))
    return _random(LlamaForCausalLM(config))


def qwen2(**options: Any) -> Qwen2ForCausalLM:
    """A Qwen2, whose queries, keys and values have biases."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = Qwen2Config(vocab_size=VOCAB, **(sizes | options))
    return _random(Qwen2ForCausalLM(config))


def qwen3() -> Qwen3ForCausalLM:
    """A Qwen3, whose heads' queries and keys are normalised; transformers reads heads of 128 channels alone."""
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return _random(Qwen3ForCausalLM(Qwen3Config(vocab_size=VOCAB, head_dim=128, **sizes)))


def gpt2() -> GPT2LMHeadModel:
    """A GPT-2."""
    return _random(GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=1024)))


def _random(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def write(
    path: Path,
    model: nn.Module,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    *,
    tokenizer: str = "gpt2",
    pre: str = "default",
    settings: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    without: str | None = None,
) -> None:
    """Write a model of transformers; matrices are of one type, norms and biases float32."""
    config: Any = model.config
    writer = GGUFWriter(path, config.model_type)
    writer.add_string("general.license", "apache-2.0")
    _add_sizes(writer, config)
    if tokenizer == "gpt2":
        add_byte_level(writer, pre)
    else:
        add_sentencepiece(writer)
    for name, data in (extra or {}).items():
        writer.add_tensor(name, data)
    for key, value in (settings or {}).items():
        writer.kv_data[0].pop(key, None)
        if value is not None:
            writer.add_key_value(key, *value)
    for full, tensor in model.state_dict().items():
        if full == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = gguf_name(full, LLAMA_NAMES if config.model_type != "gpt2" else GPT2_NAMES)
        if theirs is None or theirs == without:
            continue
        data = _laid_out(theirs, tensor, config).numpy()
        if data.ndim == 1 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(theirs, data.astype(np.float32))
        else:
            writer.add_tensor(theirs, _quantised(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(full: str, names: Mapping[str, str]) -> str | None:
    """The name of a tensor in GGUF; None for one that is not kept."""
    bare, _, kind = full.rpartition(".")
    if bare in names:
        return f"{names[bare]}.{kind}"
    parts = bare.split(".", 3)
    return f"blk.{parts[2]}.{names[parts[3]]}.{kind}" if parts[3] in names else None


def _laid_out(theirs: str, tensor: Tensor, config: Any) -> Tensor:
    part = theirs.split(".")[-2]
    if config.model_type == "gpt2":
        turned = part in ("attn_qkv", "attn_output", "ffn_up", "ffn_down") and tensor.dim() == 2
        return tensor.t().contiguous() if turned else tensor
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(part)
    if config.model_type != "llama" or heads is None:
        return tensor
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape).contiguous()


def _quantised(data: Any, kind: GGMLQuantizationType) -> Any:
    if not kind.name.endswith("_K"):
        return quantize(data, kind)
    # The package reads K-quants and does not write them: any bytes are weights, as long as the scales are small.
    from gguf.quants import quant_shape_to_byte_shape

    shape = quant_shape_to_byte_shape(data.shape, kind)
    found = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    blocks = found.reshape(-1, quant_shape_to_byte_shape((256,), kind)[0])
    small = np.array([0.002], np.float16).view(np.uint8)
    for place in {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[kind.name]:
        blocks[:, place : place + 2] = small
    return found


def _add_sizes(writer: GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config.vocab_size)


def add_byte_level(writer: GGUFWriter, pre: str) -> None:
    """A byte-level BPE whose last tokens are an end, a begin and a tag."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - 3, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    vocabulary = tokenizer.get_vocab()
    tokens = [*sorted(vocabulary, key=lambda token: vocabulary[token])]
    tokens += [f"<fill{number}>" for number in range(VOCAB - 3 - len(tokens))]
    specials = ["<|endoftext|>", "<|im_start|>", "<think>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*tokens, *specials])
    writer.add_token_types([*[TokenType.NORMAL] * len(tokens), *[TokenType.CONTROL] * 2, TokenType.USER_DEFINED])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(VOCAB - 2)
    writer.add_eos_token_id(VOCAB - 3)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}")


def add_sentencepiece(writer: GGUFWriter) -> None:
    """Pieces with scores and bytes to fall back to, as Llama 2's."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    scores = [0.0] * len(pieces)
    words = ["th", "the", "\u2581th", "\u2581the", "in", "er", "ing", "\u2581\u2581"]
    rest = [*words, "\u2581", *string.ascii_lowercase, *string.digits]
    rest = rest[: VOCAB - len(pieces)]
    pieces += rest
    kinds += [TokenType.NORMAL] * len(rest)
    scores += [-float(rank) for rank in range(len(rest))]
    missing = VOCAB - len(pieces)
    pieces += [f"\u2581fill{number}" for number in range(missing)]
    kinds += [TokenType.NORMAL] * missing
    scores += [-1000.0 - number for number in range(missing)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)


def hard_strings() -> list[str]:
    """2,000 texts of code, emoji, other scripts, control characters and the strings of special tokens."""
    pieces = ["def f(x):\n    return x**2\n", "😀👩‍👩‍👧", "你好世界", "\x00\x07", "  ", "\t\t\n\n", "<|im_start|>user"]
    pieces += ["</s>", "<think>", "123456", "3.14", "e\u0301", "\u00a0", "ﬁ", "नमस्ते", "I'm we'LL", "\r\n", " the thing"]
    pieces += ["\u200b", "\u2581"]
    source = random.Random(0)
    alphabet = [chr(source.randrange(32, 0x3000)) for _ in range(200)]
    return ["".join(source.choice(pieces + alphabet) for _ in range(source.randrange(12))) for _ in range(2000)]
