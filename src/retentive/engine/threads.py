"""How many threads a step of decoding takes on a CPU."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from retentive.models.protocol import LanguageModel

_WORTH_SHARING = 1 << 22
"""Multiplications of one product from which waking a second thread costs less than it saves: measured at 256 to 1024
channels, one thread took 8 to 74 microseconds where two, of which one had to wake, took 80 to 115."""


def rows_worth_sharing(model: LanguageModel) -> int:
    """The number of rows from which a step's matrix products are faster on several threads than on one."""
    layers = (module for module in model.products.modules() if isinstance(module, nn.Linear))
    return -(-_WORTH_SHARING // max((layer.weight.numel() for layer in layers), default=1))


@contextmanager
def one_thread(wanted: bool) -> Generator[None]:
    """A context that computes on one CPU thread, if wanted, and restores their number afterwards."""
    threads = torch.get_num_threads()
    if not wanted or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
