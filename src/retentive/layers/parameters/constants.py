"""Constant tensors that follow from a config: computed once for each device and dtype.

They are not buffers, which would follow a model into bfloat16, onto the meta device and into its checkpoints.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

from retentive.private_apis import is_faking

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
        if found is None or is_faking():
            with torch.inference_mode(False), torch.device("cpu"):
                found = make(*args, **kwargs)
            if type(found) is Tensor:  # what a mode such as FakeTensorMode makes is no tensor of the next call
                kept[key] = found
        return found

    return constant_of
