"""Times on a device, contestants in turn."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, until the device has finished."""
    wait_for(device)
    begin = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - begin


def medians(calls: Mapping[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, float]:
    """Median seconds of each call, which take turns; each ran twice before."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(2):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(seconds_of(call, device))
    return {name: statistics.median(times) for name, times in taken.items()}
