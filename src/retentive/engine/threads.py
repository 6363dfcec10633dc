"""How many threads a step of decoding takes on a CPU."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from retentive.models.base import LanguageModel

_WORTH_SHARING = 1 << 22
"""Multiplications of one product from which waking a second thread costs less than it saves: measured at 256 to 1024
channels, one thread took 8 to 74 microseconds where two, of which one had to wake, took 80 to 115."""


def rows_worth_sharing(model: LanguageModel) -> int:
    """From how many rows on the products inside the model's blocks, for one token of each, are worth sharing."""
    layers = (module for module in model.products.modules() if isinstance(module, nn.Linear))
    return -(-_WORTH_SHARING // max(layer.weight.numel() for layer in layers))


@contextmanager
def one_thread(wanted: bool) -> Generator[None]:
    """Compute on one thread of the CPU, if wanted, and on as many as before afterwards."""
    threads = torch.get_num_threads()
    if not wanted or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
