"""The dtypes of products and of states."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which products of such a tensor are accurate and fast.

    Half types keep their dtype on accelerators, which accumulate in float32. On CPUs float16 becomes float32, and so
    does bfloat16 unless the CPU multiplies it natively: elsewhere such products run about 50 times slower than float32.
    """
    if tensor.device.type != "cpu" or tensor.dtype not in (torch.float16, torch.bfloat16):
        return tensor.dtype
    return torch.bfloat16 if tensor.dtype is torch.bfloat16 and cpu_multiplies_bfloat16() else torch.float32


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a state made from inputs of ``dtype``: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def autocasts(device: torch.device) -> bool:
    """Whether ``torch.autocast`` is on for a device; some, such as ``meta``, have none."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keep the dtypes chosen here, where an enclosing ``torch.autocast`` would round float32 factors to half types."""
    if autocasts(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has matrix or vector instructions for bfloat16 (AMX, AVX512-BF16, ARM BF16)."""
    # If torch cannot tell, compute in float32, which is right everywhere.
    capabilities = getattr(torch.cpu, "get_capabilities", dict[str, bool])()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") or capabilities.get("bf16"))
