"""RetNets of flash-linear-attention 0.6.0.

Its kernels need a GPU. Here its model, tree of modules and settings are its own, and in the place of each kernel stands
the reference function that its package keeps beside it for its own tests.
"""

from typing import Any

import fla.layers.multiscale_retention as layer
from fla.models import RetNetConfig, RetNetForCausalLM
from fla.modules import FusedRMSNormGated, GatedMLP, RMSNorm
from fla.modules.layernorm import rms_norm_ref
from fla.modules.rotary.ops import RotaryEmbedding, rotary_embedding_ref
from fla.ops.retention.naive import naive_retention
from references.drawing import EPSILONS, VOCAB, case, drawn, tokens
from torch import Tensor, nn

SIZES = {"hidden_size": 16, "num_heads": 2, "num_hidden_layers": 2, "intermediate_size": 20, "vocab_size": VOCAB}


def retention(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> tuple[Tensor, None]:
    return naive_retention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2), None


def norm(self: nn.Module, x: Tensor, residual: Tensor | None = None, prenorm: bool = False) -> Any:
    summed = x if residual is None else x + residual
    normed = rms_norm_ref(summed, self.weight, None, eps=self.eps)
    return (normed, summed) if prenorm else normed


def rotary(self: RotaryEmbedding, q: Tensor, k: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    self._update_cos_sin_cache(q.shape[1], device=q.device, dtype=q.dtype)
    tables = self._cos_cached[: q.shape[1]], self._sin_cached[: q.shape[1]]
    return rotary_embedding_ref(q, *tables), rotary_embedding_ref(k, *tables)


def without_kernels() -> None:
    for name in ("chunk_retention", "fused_chunk_retention", "fused_recurrent_retention", "parallel_retention"):
        setattr(layer, name, retention)
    RMSNorm.forward = norm
    FusedRMSNormGated.forward = lambda self, x, g: norm(self, x) * nn.functional.silu(g)
    RotaryEmbedding.forward = rotary
    GatedMLP.forward = lambda self, x, **_: self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def cases() -> dict[str, dict[str, Any]]:
    without_kernels()
    found = {}
    varied = [{"norm_eps": epsilon} for epsilon in EPSILONS]
    varied += [{"norm_eps": 1e-12, "fuse_norm": False, "expand_v": 1.0, "expand_k": 0.5, "tie_word_embeddings": True}]
    for changes in varied:
        settings = {**SIZES, **changes}
        model = drawn(RetNetForCausalLM(RetNetConfig(**settings)))
        for module in model.modules():
            if isinstance(module, RotaryEmbedding):
                module.reset_parameters()
        name = f"fla-{changes['norm_eps']:g}" if "fuse_norm" not in changes else "fla-tied"
        forms = {"parallel": lambda model=model: model(tokens(), use_cache=False).logits}
        found[name] = case({**settings, "model_type": "retnet"}, model, forms)
    return found
