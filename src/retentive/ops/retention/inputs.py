"""The inputs that every form of retention shares, and their checks."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.precision import compute_dtype
from retentive.ops.retention.decay import log_decay_geometric
from retentive.ops.tracing import is_traced
from retentive.shapes import LogDecay, Queries, RetentionMatrix, TokenFlags, Values

Flags = tuple[TokenFlags, TokenFlags]
"""``mask`` and ``starts`` of a call; None where there are none."""


@dataclass(frozen=True, slots=True)
class RetentionInputs:
    """The inputs of one call, checked; padding is 0, so that it adds nothing to the state and gets no gradient.

    Attributes:
        query: Rotated and scaled.
        key: Rotated.
        value: What each token adds to the state.
        state: Where an earlier call stopped; None starts from nothing.
        mask: False at padding; None has none.
        starts: True where a document begins; None has none.
    """

    query: Queries
    key: Queries
    value: Values
    state: RetentionMatrix | None
    mask: TokenFlags
    starts: TokenFlags

    def to(self, dtype: torch.dtype) -> tuple[Queries, Queries, Values]:
        """Return query, key and value in one dtype."""
        return self.query.to(dtype), self.key.to(dtype), self.value.to(dtype)

    def initial_state(self, dtype: torch.dtype) -> RetentionMatrix:
        """The incoming state in ``dtype``; zeros where there is none."""
        return initial_state(self.state, self.key, self.value, dtype)

    def of_tokens(self, output: Values) -> Values:
        """An output in the dtype of the inputs, 0 at padding."""
        if self.mask is not None:
            output = output.masked_fill(~self.mask[:, None, :, None], 0)
        return output.to(self.query.dtype)


def checked_inputs(
    query: Queries, key: Queries, value: Values, state: RetentionMatrix | None, flags: Flags
) -> RetentionInputs:
    """Validate the arguments of a call, see `check_inputs` and `check_tokens`."""
    check_inputs(query, key, value, state)
    check_tokens(query, *flags)
    return RetentionInputs(*_without_padding(query, key, value, flags[0]), state, *flags)


def check_inputs(
    query: Float[Tensor, "..."],
    key: Float[Tensor, "..."],
    value: Float[Tensor, "..."],
    state: Float[Tensor, "..."] | None,
    names: str = "(batch, heads, time, dim)",
) -> None:
    """Validate shapes and dtypes.

    Args:
        query: The caller's.
        key: The caller's.
        value: The caller's.
        state: The caller's.
        names: The dimensions that the caller expects.

    Raises:
        TypeError: If the inputs are no floating-point numbers, or of different dtypes.
        ValueError: If a shape does not fit.
    """
    dims = names.count(",") + 1
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != dims:
            raise ValueError(
                f"{name} must have the {dims} dimensions {names}, but has the shape {tuple(tensor.shape)}."
            )
        if not tensor.is_floating_point():
            raise TypeError(
                f"{name} must be of a floating-point dtype, but is {tensor.dtype}; convert it with .float()."
            )
    if not query.dtype == key.dtype == value.dtype:
        raise TypeError(
            f"query, key and value must have one dtype, but have {query.dtype}, {key.dtype} and {value.dtype}; "
            "convert them to the one that the output should have."
        )
    if query.shape != key.shape:
        raise ValueError(
            f"query and key must have the same shape, but have {tuple(query.shape)} and {tuple(key.shape)}; "
            "repeat the keys of grouped heads first."
        )
    if value.shape[:-1] != key.shape[:-1]:
        raise ValueError(
            f"key and value may differ in their last dimension only, but have {tuple(key.shape)} and "
            f"{tuple(value.shape)}."
        )
    if query.numel() == 0 or value.numel() == 0:
        raise ValueError(
            f"every dimension must be at least 1, but query has the shape {tuple(query.shape)} and value "
            f"{tuple(value.shape)}; an empty sequence has no output."
        )
    expected = (*query.shape[:2], query.shape[-1], value.shape[-1])
    if state is not None and state.shape != expected:
        raise ValueError(
            f"state must have the shape (batch, heads, key_dim, value_dim) = {expected}, but has {tuple(state.shape)}; "
            "it belongs to another layer, batch or model."
        )


def check_tokens(query: Queries, mask: TokenFlags, starts: TokenFlags) -> None:
    """Validate that flags are one bool per token.

    Raises:
        TypeError: If ``mask`` or ``starts`` is not of dtype bool.
        ValueError: If its shape is not ``(batch, time)``.
    """
    expected = (query.shape[0], query.shape[2])
    for name, flags in (("mask", mask), ("starts", starts)):
        if flags is None:
            continue
        if flags.dtype != torch.bool:
            raise TypeError(f"{name} must be of dtype torch.bool, but is {flags.dtype}; convert it with .bool().")
        if flags.shape != expected:
            raise ValueError(f"{name} must have the shape (batch, time) = {expected}, but has {tuple(flags.shape)}.")


def resolve_log_decay(log_decay: LogDecay | None, query: Float[Tensor, "..."]) -> LogDecay:
    """The decay of the caller, checked, or else the geometric schedule of that many heads; on the query's device.

    Raises:
        ValueError: If it is not one number per head, if one is above 0, or if it asks for a gradient.
    """
    num_heads = query.shape[1]
    if log_decay is None:
        return log_decay_geometric(num_heads, query.device)
    if log_decay.shape != (num_heads,):
        raise ValueError(f"log_decay must have the shape (heads,) = ({num_heads},), but has {tuple(log_decay.shape)}.")
    if log_decay.requires_grad:
        raise ValueError("log_decay is a constant of the model and gets no gradient; pass log_decay.detach().")
    # Values are read on the CPU only: elsewhere it would stall the device, and a traced tensor has none.
    if type(log_decay) is Tensor and log_decay.device.type == "cpu" and not is_traced():
        highest = float(log_decay.max())
        if not highest <= 0:
            raise ValueError(f"log_decay must be at most 0 for every head (a decay of at most 1), but has {highest}.")
    return log_decay.to(query.device)


def retention_dtype(query: Float[Tensor, "..."]) -> torch.dtype:
    """The dtype in which retention computes: `compute_dtype`, but never float16, which a slow head's sums overflow."""
    return torch.float32 if query.dtype is torch.float16 else compute_dtype(query)


def _without_padding(query: Queries, key: Queries, value: Values, mask: TokenFlags) -> tuple[Queries, Queries, Values]:
    """Put zeros at padding, so that it adds nothing to the state, reads nothing and gets no gradient."""
    if mask is None:
        return query, key, value
    padding = ~mask[:, None, :, None]
    return query.masked_fill(padding, 0), key.masked_fill(padding, 0), value.masked_fill(padding, 0)


def initial_state(
    state: RetentionMatrix | None, key: Float[Tensor, "..."], value: Float[Tensor, "..."], dtype: torch.dtype
) -> RetentionMatrix:
    """The incoming state in ``dtype``; zeros where there is none."""
    if state is None:
        return key.new_zeros((*key.shape[:2], key.shape[-1], value.shape[-1]), dtype=dtype)
    return state.to(dtype)
