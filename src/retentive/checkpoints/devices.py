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


def usable_device(device: torch.device | str | int | None) -> torch.device | None:
    """Return a device that tensors can be made on; None for None.

    Raises:
        ValueError: If torch knows no such device, or finds none on this machine.
    """
    if device is None:
        return None
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (AssertionError, RuntimeError) as error:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        names = "'cpu'" if found is None else f"'cpu' or '{found.type}'"
        raise ValueError(
            f"device must be one that torch finds on this machine, such as {names}, but is {str(device)!r}."
        ) from error
    return place
