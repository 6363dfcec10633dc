"""Where a saved model is put."""

from typing import Literal

import torch


def chosen_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that an option names.

    Raises:
        ValueError: If it is a GPU and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be 'cpu' or 'auto' on this machine, where torch finds no GPU, but is 'cuda'.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
