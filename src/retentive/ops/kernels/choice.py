"""Where retention is computed by kernels."""

import os
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

SWITCH = "RETENTIVE_KERNELS"
"""Environment variable: ``0`` takes plain operations on every device."""

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def has_kernel(*tensors: Tensor | None) -> bool:
    """Whether kernels take these inputs: ordinary tensors on an NVIDIA GPU, with Triton there.

    Not within compilers, ``torch.func`` and forward-mode differentiation: ask `is_traced` first.
    """
    return all(
        tensor is None
        or (tensor.is_cuda and type(tensor) is Tensor and tensor.dtype in _DTYPES and _runs_kernels(tensor.device))
        for tensor in tensors
    )


@cache
def _runs_kernels(device: torch.device) -> bool:
    """Whether Triton is there, compiles for the device (compute capability 8.0 or above), and is not switched off."""
    if os.environ.get(SWITCH) == "0" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
