"""How operators of torch are written as ONNX's, where torch's exporter has no way or a slower one."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """By operator of torch; each for what a step does, which reads one token of each row."""
    op: Any = import_module("onnxscript").opset20

    def remainder(number: Any, size: Any) -> Any:
        return op.Mod(number, op.CastLike(size, number))

    def index_copy(entries: Any, dim: int, place: Any, entry: Any) -> Any:
        sizes = [1] * len(entries.shape)
        sizes[dim] = -1
        places = op.Expand(op.Reshape(place, op.Constant(value_ints=sizes)), op.Shape(entry))
        return op.ScatterElements(entries, places, entry, axis=dim)

    def rms_norm(x: Any, _shape: Any, weight: Any = None, eps: float | None = None) -> Any:
        """As onnxruntime knows it again, and makes one operator of it."""
        two, least, last = op.Constant(value_float=2.0), op.Constant(value_float=eps), op.Constant(value_ints=[-1])
        normed = op.Div(x, op.Sqrt(op.Add(op.ReduceMean(op.Pow(x, two), last), least)))
        return normed if weight is None else op.Mul(normed, weight)

    def attention(
        query: Any,
        key: Any,
        value: Any,
        allowed: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        """Of the queries of one token, those of heads that share keys side by side: no key is copied.

        A query reads its own token at least, so no weight is one of an empty sum.
        """
        if dropout_p or is_causal or scale is not None or enable_gqa:
            raise ValueError("attention of a step must be plain, with as many heads of keys as of queries.")
        scaled = op.Mul(query, op.Constant(value_float=query.shape[3] ** -0.5))
        scores = op.MatMul(scaled, op.Transpose(key, perm=[0, 1, 3, 2]))
        if allowed is not None:
            nothing, never = op.Constant(value_float=0.0), op.Constant(value_float=float("-inf"))
            scores = op.Add(scores, op.Where(allowed, nothing, never))
        return op.MatMul(op.Softmax(scores, axis=-1), value)

    return {
        torch.ops.aten.remainder.Scalar: remainder,
        torch.ops.aten.index_copy.default: index_copy,
        torch.ops.aten.rms_norm.default: rms_norm,
        torch.ops.aten.scaled_dot_product_attention.default: attention,
    }
