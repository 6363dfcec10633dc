"""Retention by kernels, by plain operations and by flash-linear-attention, where it is there, on its six shapes."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_check.measuring import medians
from retentive.ops.retention import chunkwise, retention

SHAPES = (
    (1, 8192, 96, 128),
    (2, 16384, 16, 128),
    (4, 2048, 16, 128),
    (4, 4096, 64, 128),
    (8, 1024, 8, 64),
    (8, 2048, 32, 256),
)
"""Rows, tokens, heads and their dimension, of flash-linear-attention's own table."""
QUICK = ((1, 100, 2, 16), (2, 64, 1, 32))
ROUNDS, TOLERANCE = 20, 2e-2

Run = Callable[[Tensor, Tensor, Tensor], Tensor]


@contextmanager
def plain_operations() -> Generator[None]:
    """Leave the kernels out."""
    chosen = chunkwise.has_kernel
    chunkwise.has_kernel = lambda *tensors: False
    try:
        yield
    finally:
        chunkwise.has_kernel = chosen


def _ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = (tensor.transpose(1, 2) for tensor in (query * query.shape[3] ** -0.5, key, value))
    return retention(*heads)[0].transpose(1, 2)


def _plainly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with plain_operations():
        return _ours(query, key, value)


def contestants(device: torch.device, dtype: torch.dtype) -> dict[str, Run]:
    """Who computes retention here: functions of ``(rows, tokens, heads, dim)``."""
    found: dict[str, Run] = {"plain": _plainly}
    if chunkwise.has_kernel(torch.zeros(1, device=device, dtype=dtype)):
        found["kernels"] = _ours
    if device.type == "cuda":
        with suppress(ImportError):
            from fla.ops.retention import chunk_retention  # pyright: ignore[reportMissingImports]

            found["flash_linear_attention"] = lambda query, key, value: chunk_retention(query, key, value)[0]
    return found


def compare_retention(device: str, *, quick: bool, seconds: float) -> dict[str, Any]:
    """Outputs, gradients and times of each shape. A shape that fails is named, and the others go on."""
    where = torch.device(device)
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    found: dict[str, Any] = {"dtype": str(dtype), "shapes": [], "errors": []}
    for shape in QUICK if quick else SHAPES:
        try:
            row = _one_shape(shape, where, dtype, 2 if quick else ROUNDS)
        except Exception as error:  # out of memory, or a program that does not compile
            found["errors"].append(f"{shape}: {type(error).__name__}: {error}"[:500])
            continue
        found["shapes"].append(row)
        for name, error in row["relative_error"].items():
            if not error < TOLERANCE and not name.startswith("flash"):
                found["errors"].append(f"{shape}: {name} is not what plain operations give")
    return found


def _one_shape(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    inputs = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    slope = torch.randn(shape, device=device, dtype=dtype)
    runs = contestants(device, dtype)

    def forward(run: Run) -> Tensor:
        with torch.no_grad():
            return run(*inputs)

    def both(run: Run) -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(*inputs), inputs, slope)

    expected = {"output": forward(runs["plain"]), **dict(zip("qkv", both(runs["plain"]), strict=True))}
    errors: dict[str, float] = {}
    for name, run in runs.items():
        got = {"output": forward(run), **dict(zip("qkv", both(run), strict=True))}
        errors |= {f"{name} {part}": _apart(tensor, expected[part]) for part, tensor in got.items()}
    return {
        "shape": shape,
        "relative_error": errors,
        "forward_seconds": medians({name: lambda run=run: forward(run) for name, run in runs.items()}, device, rounds),
        "both_seconds": medians({name: lambda run=run: both(run) for name, run in runs.items()}, device, rounds),
    }


def _apart(found: Tensor, expected: Tensor) -> float:
    """The deviation, as a share of the expected norm."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())
