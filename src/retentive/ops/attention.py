"""Causal attention, as the Transformer baseline uses it, over the keys of this call and of earlier ones."""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from retentive.ops.precision import compute_dtype
from retentive.ops.tracing import is_transformed
from retentive.shapes import Queries, Values


def attention(
    query: Queries,
    key: Float[Tensor, "batch kv_heads past key_dim"],
    value: Float[Tensor, "batch kv_heads past value_dim"],
    *,
    allowed: Bool[Tensor, "#batch 1 time past"] | None = None,
    bias: Float[Tensor, "1 1 time past"] | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Values:
    """Softmax attention, scaled by ``key_dim ** -0.5``, with grouped key and value heads.

    Args:
        query: Rotated, not scaled.
        key: Of all tokens that may be read, those of this call last; ``heads`` is a multiple of ``kv_heads``.
        value: The value of each of those tokens.
        allowed: True where a query may read a key. A query that may read nothing gets zeros.
        bias: Instead of ``allowed``: what is added to scores, 0 or minus infinity. Every query may read something; a
            bias that many calls share saves each the mask's passes over memory.
        causal: The queries belong to the last ``time`` of the ``past`` keys, and none reads a later key.
        dropout: Probability with which a weight is dropped; 0 outside training.

    To differentiate a gradient, choose torch's plain kernel: ``with torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.
    The others refuse, and `torch.func` takes it by itself.

    Raises:
        TypeError: If the dtypes differ.
        ValueError: If the shapes do not fit.
    """
    _check(query, key, value, causal)
    assert bias is None or (allowed is None and not causal), "a bias tells all that may be read"
    time, past = query.shape[2], key.shape[2]
    # A branch and no expression: to compilers, comparing sizes gives a symbol, and torch's attention takes a bool.
    aligned = True if causal and allowed is None and time == past else False  # noqa: SIM210
    if causal and not aligned and time > 1:
        earlier = torch.ones(time, past, dtype=torch.bool, device=query.device).tril(past - time)
        allowed = earlier[None, None] if allowed is None else allowed & earlier
    dtype = compute_dtype(query)
    seeing, mask = None, None if bias is None else bias.to(dtype)
    if allowed is not None:
        seeing = allowed.any(-1, keepdim=True)
        mask = allowed | ~seeing  # a softmax over nothing is NaN, in the gradient too
    with _kernels():
        output = scaled_dot_product_attention(
            query.to(dtype),
            key.to(dtype),
            value.to(dtype),
            attn_mask=mask,
            is_causal=aligned,
            dropout_p=dropout,
            enable_gqa=key.shape[1] != query.shape[1],
        )
    if seeing is not None:
        output = output.masked_fill(~seeing, 0)
    return output.to(query.dtype)


def attention_step(
    query: Float[Tensor, "batch heads key_dim"],
    key: Float[Tensor, "batch kv_heads past key_dim"],
    value: Float[Tensor, "batch kv_heads past value_dim"],
    allowed: Bool[Tensor, "batch past"] | None = None,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads value_dim"]:
    """`attention` of one query per row, without checks. Every query must be allowed to read some key.

    Args:
        query: Rotated, not scaled.
        key: Of all tokens that may be read, the query's own last.
        value: The value of each of those tokens.
        allowed: True where a row's query may read a key; None where it may read all.
        dropout: Probability with which a weight is dropped; 0 outside training.
    """
    dtype, dtype_of_inputs = compute_dtype(query), query.dtype
    if not (dtype is dtype_of_inputs is key.dtype is value.dtype):
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    # Heads that share keys stand side by side, as if they were queries of one head: so each key is read once.
    output = scaled_dot_product_attention(
        query.unflatten(1, (key.shape[1], -1)),
        key,
        value,
        attn_mask=None if allowed is None else allowed[:, None, None],
        dropout_p=dropout,
    ).flatten(1, 2)
    return output if output.dtype is dtype_of_inputs else output.to(dtype_of_inputs)


def _kernels() -> AbstractContextManager[object]:
    """Any kernel; where `torch.func` or forward-mode differentiation follows, torch's plain one, as others refuse."""
    return sdpa_kernel(SDPBackend.MATH) if is_transformed() else nullcontext()


def _check(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> None:
    if not query.dtype == key.dtype == value.dtype:
        raise TypeError(
            f"query, key and value must have one dtype, but have {query.dtype}, {key.dtype} and {value.dtype}."
        )
    if key.shape[:3] != value.shape[:3]:
        raise ValueError(
            f"key and value may differ in their last dimension only, but have {tuple(key.shape)} and "
            f"{tuple(value.shape)}."
        )
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have one key_dim, but have {query.shape[-1]} and {key.shape[-1]}.")
    if query.shape[1] % key.shape[1]:
        raise ValueError(
            f"the {query.shape[1]} heads of query must be a multiple of the {key.shape[1]} heads of key and value."
        )
    if causal and query.shape[2] > key.shape[2]:
        raise ValueError(
            f"a causal call needs a key for each of its {query.shape[2]} queries, but has {key.shape[2]} keys."
        )
