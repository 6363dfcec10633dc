"""Floating-point operations: how many a model's matrix products take, and how many the machine does in a second."""

import time
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from retentive.private_apis import flash_attention_for_cpu


def _product(_: Any, left: torch.Size, right: torch.Size, **__: Any) -> int:
    """Operations of ``left @ right`` that is added to an existing tensor."""
    return 2 * left.numel() * right[-1]


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Operations of all scores, masked ones included, and of the weighted sums of values."""
    return 2 * query[0] * query[1] * query[2] * key[2] * (query[3] + value[3])


_UNCOUNTED = {
    torch.ops.aten.addmm_: _product,
    torch.ops.aten.baddbmm_: _product,
    flash_attention_for_cpu(): _attention,
}
"""Products that torch's counter does not count by itself."""


def training_flops_per_token(model: nn.Module, window: int) -> float:
    """Count the operations of a training step's matrix products, per token of a window.

    The products of one forward pass over one row are counted as they run, and taken three times: the gradient of a
    product is two products of its size. An (m, k) by (k, n) product is ``2 m k n`` operations. Elementwise work and
    recomputed products are not counted, so that extra work does not raise the reported share of the machine's speed.

    Args:
        model: Not yet wrapped or sharded; on any device, the meta device too, where nothing is computed.
        window: Tokens in a row.
    """
    tokens = torch.zeros(1, window, dtype=torch.long, device=next(model.parameters()).device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
            model(tokens)
    finally:
        model.train(training)
    return 3 * counter.get_total_flops() / window


@cache
def matrix_flops_per_second(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Measure the speed of a large square matrix product: the fastest repetition within about ``seconds``.

    It is measured once per process, device and dtype.
    """
    size = 1024 if device.type == "cpu" else 8192
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 4 or time.perf_counter() < end:  # the first one also warms up, and any may be disturbed
        begin = time.perf_counter()
        torch.mm(left, right, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - begin)
    return 2 * size**3 / min(taken)
