"""Constant tensors that follow from a config: computed once for each device and dtype.

They are not buffers, which would follow a model into bfloat16, onto the meta device and into its checkpoints.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")


def constant(make: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """Remember what ``make`` returns for each of its (hashable) arguments.

    Its tensors are real and may be saved for a backward pass even if first asked for on the meta device or in inference
    mode. Under a tracing compiler nothing is remembered, since its results are not tensors.
    """
    kept: dict[object, Tensor] = {}

    @wraps(make)
    def constant_of(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensor:
        if torch.compiler.is_compiling():
            return make(*args, **kwargs)
        key = (args, tuple(sorted(kwargs.items())))
        found = kept.get(key)
        if found is None or _is_faking():
            with torch.inference_mode(False), torch.device("cpu"):
                found = make(*args, **kwargs)
            if type(found) is Tensor:  # what a mode such as FakeTensorMode makes is no tensor of the next call
                kept[key] = found
        return found

    return constant_of


def _is_faking() -> bool:
    """Whether a FakeTensorMode is on, whose tensors have no values and are not computed with real ones."""
    keys = getattr(torch._C, "_TorchDispatchModeKey", None)  # pyright: ignore[reportPrivateUsage]
    get = getattr(torch._C, "_get_dispatch_mode", None)  # pyright: ignore[reportPrivateUsage]
    return keys is not None and get is not None and get(keys.FAKE) is not None
