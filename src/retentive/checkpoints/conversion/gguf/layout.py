"""The architectures of GGUF files, in the names and settings that Hugging Face gives them.

A GGUF file keeps what a Hugging Face folder keeps, under other names (``docs/gguf.md`` of ggml); in these it is read by
the same code as such a folder.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retentive.checkpoints.conversion.gguf.file import GgufFile
from retentive.checkpoints.tensor_file import listed
from retentive.errors import MismatchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How an architecture's tensors and settings are named.

    Attributes:
        settings: Makes the content of a ``config.json``.
        outside: Names of tensors outside of the blocks, without ``.weight`` or ``.bias``.
        block: Names of tensors in a block, theirs after ``blk.N.`` and Hugging Face's after ``prefix``.
        prefix: What stands before a block's names there.
        transposed: Tensors of a block that Hugging Face keeps with inputs in rows.
        interleaved: Whether the channels of queries and keys are interleaved for another way of rotating.
    """

    settings: Callable[["Metadata"], dict[str, Any]]
    outside: Mapping[str, str]
    block: Mapping[str, str]
    prefix: str
    transposed: tuple[str, ...] = ()
    interleaved: bool = False


class Metadata:
    """The settings of one file.

    Args:
        file: The file.
    """

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.architecture = str(file.metadata.get("general.architecture"))

    def get(self, name: str, default: Any = None) -> Any:
        """A setting of the architecture, or ``default``."""
        return self.file.metadata.get(f"{self.architecture}.{name}", default)

    def number(self, name: str, default: int | None = None) -> Any:
        """A number that is the same for all layers.

        Raises:
            MismatchError: If it is missing and has no default, or differs from layer to layer.
        """
        found = self.get(name, default)
        if isinstance(found, list) and len({*found}) == 1:
            return found[0]
        if isinstance(found, list):
            raise MismatchError(
                f"{self.file.path} must have one {self.architecture}.{name} for all layers, but has {found}: blocks of "
                "different sizes are not supported here."
            )
        if found is None:
            raise MismatchError(f"{self.file.path} lacks {self.architecture}.{name}; copy it again.")
        return found

    def has(self, tensor: str) -> bool:
        """Whether the file has a tensor."""
        return tensor in self.file.shapes


def _general(file: GgufFile) -> dict[str, Any]:
    """What every architecture has: the model's name, its licence, and the ids that begin, end and fill up a text."""
    keys = {
        "_name_or_path": "general.name",
        "license": "general.license",
        "bos_token_id": "tokenizer.ggml.bos_token_id",
        "eos_token_id": "tokenizer.ggml.eos_token_id",
        "pad_token_id": "tokenizer.ggml.padding_token_id",
    }
    return {name: file.metadata.get(key) for name, key in keys.items()}


def _llama_like(kind: str) -> Callable[[Metadata], dict[str, Any]]:
    def settings(said: Metadata) -> dict[str, Any]:
        """Hugging Face's settings of one file."""
        if said.get("expert_count", 0):
            raise MismatchError(
                f"{said.file.path} is a mixture of {said.get('expert_count')} experts, which is not here; take a model "
                "without them."
            )
        heads, hidden = said.number("attention.head_count"), said.number("embedding_length")
        head_dim = said.get("attention.key_length", hidden // heads)
        if said.get("attention.value_length", head_dim) != head_dim:
            raise MismatchError(f"{said.file.path} has values of another size than keys, which is not supported here.")
        if said.get("rope.dimension_count", head_dim) != head_dim:
            raise MismatchError(f"{said.file.path} rotates some channels of a head only, which is not supported here.")
        biased = said.has("blk.0.attn_output.bias")
        return {
            "model_type": "qwen2" if said.has("blk.0.attn_q.bias") and not biased else kind,
            "hidden_size": hidden,
            "num_hidden_layers": said.number("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": said.number("attention.head_count_kv")
            if said.get("attention.head_count_kv")
            else heads,
            "head_dim": head_dim,
            "use_sliding_window": False,
            "intermediate_size": said.number("feed_forward_length"),
            "rms_norm_eps": said.number("attention.layer_norm_rms_epsilon"),
            "hidden_act": "silu",
            "attention_bias": biased,
            "mlp_bias": said.has("blk.0.ffn_up.bias"),
            "attention_dropout": 0.0,
            "max_position_embeddings": said.number("context_length"),
            "sliding_window": said.get("attention.sliding_window"),
            "tie_word_embeddings": not said.has("output.weight"),
            "rope_parameters": _rotation(said),
        }

    return settings


def _rotation(said: Metadata) -> dict[str, Any]:
    base: dict[str, Any] = {"rope_type": "default", "rope_theta": said.get("rope.freq_base", 10000.0)}
    kind, factor = said.get("rope.scaling.type", "none"), said.get("rope.scaling.factor", said.get("rope.scale_linear"))
    if said.has("rope_freqs.weight"):
        return base | _llama3_scaling(said.file.read("rope_freqs.weight"), base["rope_theta"], said)
    if kind == "none" or factor in (None, 1.0):
        return base
    if kind != "linear":
        raise MismatchError(
            f"{said.file.path} scales its rotation by {kind!r}, which is not supported; 'linear' and Llama 3's are."
        )
    return base | {"rope_type": "linear", "factor": factor}


def _llama3_scaling(divisors: Tensor, base: float, said: Metadata) -> dict[str, Any]:
    """The settings of Llama 3's scaling, which a file keeps as the divisors that follow from them.

    Raises:
        MismatchError: If the divisors follow from no settings that a published model has.
    """
    wavelengths = 2 * torch.pi * base ** (torch.arange(len(divisors), dtype=torch.float64) / len(divisors))
    factor, low, high, length = float(divisors.max()), 1.0, 4.0, 8192
    share = ((length / wavelengths - low) / (high - low)).clamp(0, 1)
    expected = 1 / ((1 - share) / factor + share)
    if not torch.allclose(divisors.double(), expected, rtol=1e-4):
        raise MismatchError(
            f"{said.file.path} slows its rotation by divisors (rope_freqs.weight) that are not Llama 3's, which is not "
            "supported here."
        )
    named = {"low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": length}
    return {"rope_type": "llama3", "factor": factor, **named}


def _gpt2(said: Metadata) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "n_embd": said.number("embedding_length"),
        "n_layer": said.number("block_count"),
        "n_head": said.number("attention.head_count"),
        "n_inner": said.number("feed_forward_length"),
        "n_positions": said.number("context_length"),
        "layer_norm_epsilon": said.number("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
        "tie_word_embeddings": not said.has("output.weight"),
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), 0.0),
    }


LLAMA_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LLAMA_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GPT2_OUTSIDE = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
GPT2_BLOCK = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}

ARCHITECTURES = {
    "llama": Architecture(
        settings=_llama_like("llama"),
        outside=LLAMA_OUTSIDE,
        block=LLAMA_BLOCK,
        prefix="model.layers.",
        interleaved=True,
    ),
    "qwen2": Architecture(
        settings=_llama_like("qwen2"), outside=LLAMA_OUTSIDE, block=LLAMA_BLOCK, prefix="model.layers."
    ),
    "qwen3": Architecture(
        settings=_llama_like("qwen3"),
        outside=LLAMA_OUTSIDE,
        block=LLAMA_BLOCK | {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"},
        prefix="model.layers.",
    ),
    "gpt2": Architecture(
        settings=_gpt2,
        outside=GPT2_OUTSIDE,
        block=GPT2_BLOCK,
        prefix="transformer.h.",
        transposed=("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"),
    ),
}
"""Name in ``general.architecture`` -> architecture. Mistral and SmolLM call themselves ``llama``."""

IGNORED = ("rope_freqs.weight",)


class HuggingFaceView:
    """A GGUF file as a Hugging Face folder would hold it.

    Args:
        file: The file.

    Attributes:
        settings: Content of the ``config.json``.
        shapes: Of every tensor, by Hugging Face's name.

    Raises:
        MismatchError: If the architecture is not here, or a tensor of a block is missing.
    """

    def __init__(self, file: GgufFile) -> None:
        said = Metadata(file)
        if said.architecture not in ARCHITECTURES:
            raise MismatchError(
                f"{file.path} must be of an architecture that is known here ({', '.join(ARCHITECTURES)}), but is of "
                f"{said.architecture!r}."
            )
        self._file = file
        self._architecture = ARCHITECTURES[said.architecture]
        self._check_blocks(said)
        self.settings = _general(file) | self._architecture.settings(said)
        self._theirs = {self._name(theirs): theirs for theirs in file.shapes if theirs not in IGNORED}
        self.shapes = {
            ours: file.shapes[theirs][::-1] if self._is_transposed(theirs) else file.shapes[theirs]
            for ours, theirs in self._theirs.items()
        }

    def read(self, name: str) -> Tensor:
        """Return a tensor by Hugging Face's name, as float32."""
        theirs = self._theirs[name]
        tensor = self._file.read(theirs)
        if self._is_transposed(theirs):
            return tensor.t().contiguous()
        heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(theirs.split(".")[-2])
        if not self._architecture.interleaved or heads is None:
            return tensor
        halves = tensor.unflatten(
            0, (self.settings[heads], -1, 2)
        )  # channel 2 i stood at i, and 2 i + 1 at dim / 2 + i
        return halves.transpose(1, 2).reshape(tensor.shape)

    def _check_blocks(self, said: Metadata) -> None:
        """Refuse a file that lacks a tensor, by the name that it has in GGUF."""
        # A count that is not true could be two thousand millions; one block more than there are tensors is missing.
        blocks = range(min(said.number("block_count"), len(self._file.shapes) + 1))
        needed = {f"blk.{block}.{name}.weight" for block in blocks for name in self._architecture.block}
        needed |= {f"{name}.weight" for name in self._architecture.outside if name != "output"}
        lacking = needed - self._file.shapes.keys()
        if lacking:
            raise MismatchError(f"{self._file.path} lacks {listed(lacking)}; copy it again.")

    def _name(self, theirs: str) -> str:
        bare, _, kind = theirs.rpartition(".")
        block = re.fullmatch(r"blk\.(\d+)\.(.+)", bare)
        if block is None:
            return f"{self._architecture.outside.get(bare, bare)}.{kind}"
        name = self._architecture.block.get(block[2], block[2])
        return f"{self._architecture.prefix}{block[1]}.{name}.{kind}"

    def _is_transposed(self, theirs: str) -> bool:
        return theirs.startswith("blk.") and theirs.split(".", 2)[2] in self._architecture.transposed
