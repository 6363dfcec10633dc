"""Root-mean-square normalisation with a lean backward pass on CPUs."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.tracing import differentiable_gradients, is_traced


def rms_norm(
    x: Float[Tensor, "*batch channels"], weight: Float[Tensor, "channels"] | None, epsilon: float
) -> Float[Tensor, "*batch channels"]:
    """``x / sqrt(mean(x ** 2) + epsilon) * weight`` over the last dimension (arXiv:1910.07467, eq. 4).

    On a GPU, and under ``torch.compile``, this is torch's own fused kernel. On a CPU torch composes it of many
    operations, six times slower than its layer norm; there this one uses layer norm's backward kernel.

    Args:
        x: What is normalised; sums are taken in float32 or wider.
        weight: Scale of each channel, or None.
        epsilon: Added to the mean square.
    """
    if x.device.type != "cpu" or is_traced():
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, epsilon)
    normed: Tensor = _RMSNorm.apply(x, weight, epsilon)
    return normed


def rms_norm_of_length(
    x: Float[Tensor, "*batch channels"], scale: Float[Tensor, "*channels"], least: Float[Tensor, ""]
) -> Float[Tensor, "*batch channels"]:
    """`rms_norm` in four small products, without gradients: ``x / hypot(|x|, least) * scale``.

    Args:
        x: What is normalised.
        scale: The weight, or 1, times the root of the number of channels.
        least: The root of the number of channels times epsilon.
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (x / torch.hypot(length, least)).mul_(scale)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normed = wide * inverse
        if weight is not None:
            normed.mul_(weight)
        ctx.save_for_backward(x, weight, inverse)
        ctx.epsilon = epsilon
        return normed.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():

            def again(x: Tensor, weight: Tensor | None) -> tuple[Tensor]:
                return (torch.nn.functional.rms_norm(x, x.shape[-1:], weight, ctx.epsilon),)

            d_x, d_weight = differentiable_gradients(again, (x, weight), grad_outputs)
            return d_x, d_weight, None
        needs_weight = ctx.needs_input_grad[1]
        return *_go_back(grad_outputs[0], x, weight, inverse, needs_weight=needs_weight), None


def _go_back(
    grad: Tensor, x: Tensor, weight: Tensor | None, inverse: Tensor, *, needs_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``x`` and, if it is wanted, of the weight."""
    wide = x.to(inverse.dtype)
    grad = grad.to(inverse.dtype).contiguous()
    scale = None if weight is None else weight.to(inverse.dtype)
    # Layer norm's kernel, told that the mean is 0, gives the gradient of a mean that was subtracted too, and takes
    # that part off: add it back.
    d_x, d_weight, _ = torch.ops.aten.native_layer_norm_backward(
        grad, wide.contiguous(), x.shape[-1:], torch.zeros_like(inverse), inverse, scale, None,
        [True, needs_weight, False],
    )  # fmt: skip
    ones = torch.ones_like(grad[(0,) * (grad.dim() - 1)]) if scale is None else scale
    d_mean = (grad @ ones).div_(x.shape[-1]).unsqueeze(-1)
    d_x.add_(d_mean.mul_(inverse))  # one number per row: addcmul_ of two such columns takes six times as long
    return d_x.to(x.dtype), d_weight.to(weight.dtype) if needs_weight and weight is not None else None
