"""How many threads a step of decoding takes on a CPU."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from retentive.models.protocol import LanguageModel
from retentive.private_apis import set_threads_of_this_thread

_WORTH_SHARING = 1 << 22
"""Multiplications of one product from which waking a second thread costs less than it saves: measured at 256 to 1024
channels, one thread took 8 to 74 microseconds where two, of which one had to wake, took 80 to 115."""


def rows_worth_sharing(model: LanguageModel) -> int:
    """The number of rows from which a step's matrix products are faster on several threads than on one."""
    layers: Any = [module for module in model.products.modules() if hasattr(module, "in_features")]
    return -(-_WORTH_SHARING // max((layer.in_features * layer.out_features for layer in layers), default=1))


_UNCHANGED: AbstractContextManager[None] = nullcontext()


class _OneThread(AbstractContextManager[None]):
    """What this thread computes in this context runs on it alone."""

    def __init__(self, before: int) -> None:
        self._before = before

    def __enter__(self) -> None:
        set_threads_of_this_thread(1)

    def __exit__(self, *_: object) -> None:
        set_threads_of_this_thread(self._before)


def one_thread(wanted: bool) -> AbstractContextManager[None]:
    """A context in which this thread computes on one CPU thread, if wanted. Other threads are left alone."""
    if not wanted or (before := torch.get_num_threads()) == 1:
        return _UNCHANGED
    return _OneThread(before)
