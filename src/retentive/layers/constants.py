"""Constant tensors that follow from a config: computed once for each device and dtype.

They are not buffers, which would follow a model into bfloat16, onto the meta device and into its checkpoints.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")


def constant(make: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """Remember what ``make`` returns for each of its (hashable) arguments.

    Its tensors are real and may be saved for a backward pass even if first asked for on the meta device or in inference
    mode. Under a tracing compiler nothing is remembered, since its results are not tensors.
    """

    @cache
    def kept(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensor:
        with torch.inference_mode(False), torch.device("cpu"):
            return make(*args, **kwargs)

    @wraps(make)
    def constant_of(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensor:
        if torch.compiler.is_compiling():
            return make(*args, **kwargs)
        return kept(*args, **kwargs)

    return constant_of
