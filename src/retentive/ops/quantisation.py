"""Weights as whole numbers of 8 or 4 bits, in the layouts of torch's own CPU kernels for weight-only quantisation.

Eight bits have one scale a row, ``weight = values * scale`` (``_weight_int8pack_mm``). Four bits have a scale and a
zero for each group of inputs, ``weight = (values - 8) * scale + zero`` (``_weight_int4pack_mm_for_cpu``), two values a
byte, the even input in the high half, as the same kernel for GPUs and gpt-fast keep them.

The kernels are fast for activations in bfloat16 alone: in float32 they read one number after another. So a product of
few rows rounds its activations and its result to bfloat16. One of many rows and 8 bits multiplies whole numbers, with
two of 8 bits for each activation, or, where a CPU cannot add those up exactly, makes floats of some rows of the weight
at a time.
"""

from functools import cache

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor
from torch.nn.functional import linear

from retentive.ops.tracing import is_traced
from retentive.private_apis import (
    is_faking,
    pack_four_bits,
    product_of_eight_bits,
    product_of_four_bits,
    product_of_whole_numbers,
)

Values8 = Int8[Tensor, "outputs inputs"]
Values4 = UInt8[Tensor, "outputs half_inputs"]
Scales = Float[Tensor, "outputs"]
ScalesAndZeros = Float[Tensor, "groups outputs 2"]

GROUP_SIZES = (32, 64, 128, 256)
"""Those of the kernel of 4 bits."""
FEW_ROWS = 48
"""Up to so many rows the kernels are faster than floats; measured at 576 to 1,536 channels."""
FEWEST_WHOLE = 13
"""From so many rows on products of whole numbers are faster than the kernel of 8 bits; measured at the same sizes."""
_MADE_TOGETHER = 1 << 22
"""Numbers of a weight that are floats at one time."""


def fits_four_bits(outputs: int, inputs: int, group_size: int) -> bool:
    """Whether the kernel of 4 bits takes a weight of this shape."""
    return outputs % 16 == 0 and inputs % group_size == 0


def quantise_rows(weight: Float[Tensor, "outputs inputs"]) -> tuple[Values8, Scales]:
    """Round a weight to 8 bits, the largest number of each row to 127 or -127."""
    wide = weight.float()
    scales = wide.abs().amax(1) / 127
    values = (wide / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round_().clamp_(-127, 127)
    return values.to(torch.int8), scales.to(weight.dtype)


def dequantise_rows(values: Int8[Tensor, "rows inputs"], scales: Float[Tensor, "rows"]) -> Float[Tensor, "rows inputs"]:
    """Return the floats that rows of 8 bits stand for."""
    return values.to(scales.dtype) * scales[:, None]


def quantise_groups(weight: Float[Tensor, "outputs inputs"], group_size: int) -> tuple[Values4, ScalesAndZeros]:
    """Round a weight to 4 bits, the smallest number of each group to 0 and the largest to 15.

    Scales and zeros are bfloat16, for which the kernel is fast, and values are rounded by what became of them.

    Raises:
        ValueError: If the kernel takes no weight of this shape.
    """
    outputs, inputs = weight.shape
    if group_size not in GROUP_SIZES or not fits_four_bits(outputs, inputs, group_size):
        raise ValueError(
            f"a weight of 4 bits must have a multiple of 16 outputs and of group_size (one of {GROUP_SIZES}) inputs, "
            f"but has {outputs} and {inputs}, and group_size is {group_size}."
        )
    groups = weight.float().unflatten(1, (-1, group_size))
    least, most = groups.amin(2), groups.amax(2)
    scales = ((most - least) / 15).clamp_min(torch.finfo(torch.float32).tiny).bfloat16()
    zeros = (least + 8 * scales.float()).bfloat16()
    whole = ((groups - zeros.float()[..., None]) / scales.float()[..., None] + 8).round_().clamp_(0, 15)
    numbers = whole.to(torch.uint8).flatten(1)
    return numbers[:, 0::2] << 4 | numbers[:, 1::2], torch.stack((scales, zeros), -1).transpose(0, 1).contiguous()


def halves(values: UInt8[Tensor, "rows half_inputs"]) -> UInt8[Tensor, "rows inputs"]:
    """Return the numbers from 0 to 15 of rows of 4 bits."""
    return torch.stack((values >> 4, values & 15), -1).flatten(1)


def dequantise_groups(
    values: UInt8[Tensor, "rows half_inputs"], scales_and_zeros: Float[Tensor, "groups rows 2"], dtype: torch.dtype
) -> Float[Tensor, "rows inputs"]:
    """Return the floats that rows of 4 bits stand for."""
    scales, zeros = scales_and_zeros.to(dtype).permute(2, 1, 0).unsqueeze(-1)
    grouped = halves(values).to(dtype).unflatten(1, (scales.shape[1], -1))
    return ((grouped - 8) * scales + zeros).flatten(1)


def product_of_rows(
    x: Float[Tensor, "*rows inputs"], values: Values8, scales: Scales
) -> Float[Tensor, "*rows outputs"]:
    """``x @ weight.T`` for a weight of 8 bits."""
    flat = x.reshape(-1, x.shape[-1])
    on_cpu = x.device.type == "cpu"
    if on_cpu and flat.shape[0] >= FEWEST_WHOLE and not is_traced() and not is_faking() and _adds_exactly():
        made = _product_in_whole_numbers(flat, values)
    # With another number of inputs the kernel reads past the end of a row.
    elif on_cpu and flat.shape[0] <= FEW_ROWS and values.shape[1] % 16 == 0:
        one = torch.ones(values.shape[0], dtype=torch.bfloat16)  # the scales themselves keep their precision
        made = product_of_eight_bits(flat.bfloat16(), values, one).to(x.dtype)
    else:
        step = max(1, _MADE_TOGETHER // values.shape[1])
        made = torch.cat([linear(flat, part.to(x.dtype)) for part in values.split(step)], 1)
    return (made * scales).unflatten(0, x.shape[:-1]).to(x.dtype)


def _product_in_whole_numbers(x: Float[Tensor, "rows inputs"], values: Values8) -> Float[Tensor, "rows outputs"]:
    """``x @ values.T``, each row of ``x`` as ``step * (high + low / 254)`` with high and low of 8 bits.

    So the largest number of a row is 127 steps, and every other is right to half of a 254th of one: 8 bits alone lose
    a row's small numbers beside a large one, such as feed-forwards of pretrained models have.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    step = wide.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
    steps = wide / step
    high = steps.round()
    low = ((steps - high) * 254).round_()
    halves = torch.cat((high, low)).to(torch.int8)
    together = max(1, _MADE_TOGETHER // halves.shape[0])
    sums = [product_of_whole_numbers(halves, part).to(wide.dtype).chunk(2) for part in values.split(together)]
    return torch.cat([of_high.add_(of_low, alpha=1 / 254) for of_high, of_low in sums], 1).mul_(step)


@cache
def _adds_exactly() -> bool:
    """Whether this CPU adds up products of 8 bits without loss; some add pairs in 16 bits, where they saturate."""
    rows = torch.tensor([[127] * 64, [-127] * 64, [127, -127] * 32], dtype=torch.int8).repeat(16, 1)
    found = product_of_whole_numbers(rows, rows)
    return torch.equal(found, (rows.double() @ rows.double().T).to(torch.int32))


def pack(values: Values4) -> Values4:
    """Return a weight of 4 bits in the order in which this machine's kernel reads it."""
    return pack_four_bits(halves(values).to(torch.int32))


def unpack(packed: Values4) -> Values4:
    """Return what `pack` was given, on this machine."""
    outputs, inputs = packed.shape[0], 2 * packed.shape[1]
    place = torch.arange(outputs * inputs, dtype=torch.int32).view(outputs, inputs)
    found = torch.zeros(outputs * inputs, dtype=torch.int32)
    # Packing moves numbers of 4 bits and changes none: the digits of its place tell where each one went.
    for digit in range(0, 32, 4):
        moved = pack_four_bits(place >> digit & 15)
        found += halves(moved).flatten().to(torch.int32) << digit
    plain = torch.empty(outputs * inputs, dtype=torch.uint8)
    plain[found.long()] = halves(packed).flatten()
    whole = plain.view(outputs, inputs)
    return whole[:, 0::2] << 4 | whole[:, 1::2]


def product_of_groups(
    x: Float[Tensor, "*rows inputs"], packed: Values4, scales_and_zeros: ScalesAndZeros
) -> Float[Tensor, "*rows outputs"]:
    """``x @ weight.T`` for a weight of 4 bits that `pack` has ordered."""
    flat = x.reshape(-1, x.shape[-1])
    group_size = flat.shape[1] // scales_and_zeros.shape[0]
    made = product_of_four_bits(flat.bfloat16(), packed, group_size, scales_and_zeros)
    return made.to(x.dtype).unflatten(0, x.shape[:-1])
