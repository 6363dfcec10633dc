"""Cross-entropy of a linear head over a large vocabulary, without all logits at once."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retentive.config_types import check_count
from retentive.ops.precision import autocasts
from retentive.ops.tracing import is_traced
from retentive.private_apis import is_batched, is_graph_kept

IGNORED = -100
"""The label of a position that has no loss."""

_LOGITS_ON_CPU = 1 << 21
"""Logits at a time: 8 MiB stay in a CPU's cache from one pass over them to the next."""

_LOGITS_ELSEWHERE = 1 << 26

_LEAST_ROWS = 128
"""Rows at a time, however large the vocabulary: with fewer, reading the head takes as long as the product."""


def linear_cross_entropy(
    hidden: Float[Tensor, "tokens hidden"],
    weight: Float[Tensor, "vocab hidden"],
    labels: Int[Tensor, "tokens"],
    bias: Float[Tensor, "vocab"] | None = None,
    *,
    chunk_size: int | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of ``hidden @ weight.T + bias`` over labels that are not ``-100``; 0 where there is none.

    Only ``chunk_size`` rows of logits exist at a time. Their gradient is made in the forward pass, where the logits are
    at hand, so the backward pass multiplies no matrix a second time. Under autocast to bfloat16 products are in it, and
    sums in float32. In compiled and in functionally transformed code it is the plain formula, with all logits at once.

    Args:
        hidden: What the head reads, one row a token.
        weight: The head, or the tied embedding.
        labels: The token that each row should predict.
        bias: Bias of the head.
        chunk_size: Rows of logits at a time. Changes memory and speed, never the result; None chooses by the device.

    Raises:
        ValueError: If ``chunk_size`` is below 1.
        RuntimeError: In the backward pass, if gradients are to be differentiated (``create_graph=True``).
    """
    if chunk_size is None:
        at_once = _LOGITS_ON_CPU if hidden.device.type == "cpu" else _LOGITS_ELSEWHERE
        chunk_size = max(_LEAST_ROWS, at_once // weight.shape[0])
    check_count("chunk_size", chunk_size, unit="row of logits")
    if is_traced():
        return _plain(hidden, weight, labels, bias)
    if not torch.is_grad_enabled():  # the function below cannot see that, and would compute gradients
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, labels, bias, chunk_size, _product_dtype(hidden))
    return loss


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype that autocast asks for, where gradients of single logits are not below its range; else that of hidden.

    float16 needs the scale of a gradient scaler, which is not known before the backward pass.
    """
    asked = torch.get_autocast_dtype(hidden.device.type) if autocasts(hidden.device) else hidden.dtype
    return asked if asked is torch.bfloat16 else hidden.dtype


def _plain(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.to(hidden.dtype)
    logits = torch.nn.functional.linear(hidden, weight.to(hidden.dtype), bias)
    logits = logits.to(torch.promote_types(hidden.dtype, torch.float32))
    valid = labels != IGNORED
    chosen = logits.gather(1, labels.where(valid, 0).unsqueeze(1)).squeeze(1)
    losses = (logits.logsumexp(1) - chosen).where(valid, 0.0)
    return losses.sum() / valid.sum().clamp_min(1)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        bias: Tensor | None,
        chunk_size: int,
        product: torch.dtype,
    ) -> Tensor:
        needs = ctx.needs_input_grad
        valid = labels != IGNORED
        count = valid.sum().clamp_min(1)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses: list[Tensor] = []
        hidden_grad = torch.empty_like(hidden) if needs[0] else None
        weight_grad = torch.zeros_like(weight, dtype=wide) if needs[1] else None
        bias_grad = torch.zeros_like(bias, dtype=wide) if bias is not None and needs[3] else None
        factor = weight.to(product)
        scores = _Logits(factor, None if bias is None else bias.to(product))
        for begin in range(0, hidden.shape[0], chunk_size):
            rows = slice(begin, begin + chunk_size)
            read = hidden[rows].to(product)
            logits = scores(read).to(wide)
            target = labels[rows].where(valid[rows], 0).unsqueeze(1)
            share = valid[rows].to(wide).div_(count).unsqueeze(1)
            chosen = logits.gather(1, target)
            # Written over the logits in few passes.
            highest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()
            norm = exponentials.sum(1, keepdim=True)
            losses.append((norm.log() + highest - chosen).where(share > 0, 0.0).sum() / count)
            if not any(needs):
                continue
            # The gradient of the mean is (softmax - one_hot) / count.
            slope = exponentials.mul_(share / norm).scatter_add_(1, target, -share)
            narrow = slope.to(product)
            if hidden_grad is not None and hidden_grad.dtype == product:
                torch.mm(narrow, factor, out=hidden_grad[rows])
            elif hidden_grad is not None:
                hidden_grad[rows] = narrow @ factor
            if weight_grad is not None:
                if weight_grad.dtype == narrow.dtype:
                    weight_grad.addmm_(narrow.T, read)
                else:
                    weight_grad.add_(narrow.T @ read)
            if bias_grad is not None:
                bias_grad.add_(slope.sum(0))
        ctx.save_for_backward(
            hidden_grad,
            None if weight_grad is None else weight_grad.to(weight.dtype),
            None if bias_grad is None or bias is None else bias_grad.to(bias.dtype),
        )
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "linear_cross_entropy has first derivatives only, but create_graph=True asks for more: take the loss "
                "of output.logits by torch.nn.functional.cross_entropy, or differentiate by torch.func."
            )
        (scale,) = grad_outputs
        gradients: tuple[Tensor | None, ...] = ctx.saved_tensors
        if _is_the_end(scale):  # the saved gradients are returned without a copy
            hidden_grad, weight_grad, bias_grad = gradients
        else:
            hidden_grad, weight_grad, bias_grad = (
                None if gradient is None else gradient * scale.to(gradient.dtype) for gradient in gradients
            )
        return hidden_grad, weight_grad, None, bias_grad, None, None


def _is_the_end(scale: Tensor) -> bool:
    """Whether ``backward`` began at this loss, with gradient 1, and will not be called on it again."""
    if scale.device.type != "cpu" or type(scale) is not Tensor or torch.compiler.is_compiling():
        return False
    # Where torch cannot tell (None), there may be more to come; a copy is always right.
    return is_batched(scale) is False and is_graph_kept() is False and scale.item() == 1


class _Logits:
    """``hidden @ weight.T + bias`` in one buffer for all chunks: allocating takes as long as the product."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias
        self._buffer: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        if self._buffer is None:
            self._buffer = hidden.new_empty(hidden.shape[0], self._weight.shape[0])
        logits = torch.mm(hidden, self._weight.T, out=self._buffer[: hidden.shape[0]])
        return logits if self._bias is None else logits.add_(self._bias)
