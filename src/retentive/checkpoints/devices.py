"""The device that a saved model is loaded onto."""

from typing import Literal

import torch


def chosen_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device that an option names.

    Raises:
        ValueError: If the option names a GPU and torch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be 'cpu' or 'auto' on this machine, where torch finds no GPU, but is 'cuda'.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
