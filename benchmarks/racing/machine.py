"""What the machine can do at best: float32 matrix speed and memory bandwidth, and what it is called.

The speeds are works of a contestant of their own, so that they are measured between the turns of the others, under the
same noise. ``python -m benchmarks.racing.machine`` prints them alone.
"""

import json
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.racing.interleave import Arena, Contestant, Race, Task
from benchmarks.racing.worker import Work

NAME = "machine"


def contestant(*, threads: int) -> Contestant:
    """The machine itself, in the interpreter that asks."""
    return Contestant(
        name=NAME, python=Path(sys.executable), module="benchmarks.racing.machine", options={"threads": threads}
    )


def tasks(*, matrix_size: int = 4096, copy_mebibytes: int = 512) -> dict[str, Task]:
    """The two works, by the labels that `speeds` reads."""
    return {
        "matrix_product": Task(contestant=NAME, work="matrix_product", arguments={"size": matrix_size}),
        "memory_copy": Task(contestant=NAME, work="memory_copy", arguments={"mebibytes": copy_mebibytes}),
    }


def speeds(race: Race) -> dict[str, float]:
    """Median speeds out of a race that `tasks` took part in, in 10^9 operations and bytes per second."""
    return {
        "matrix_gflop_per_second": 1e-9 / race.seconds_per_unit("matrix_product"),
        "memory_gigabytes_per_second": 1e-9 / race.seconds_per_unit("memory_copy"),
    }


def description(*, threads: int) -> dict[str, Any]:
    """Names and versions that a number means nothing without."""
    return {
        "cpu": _cpu_name(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def works(*, threads: int) -> Mapping[str, Callable[..., Work]]:
    """The machine's works, for `benchmarks.racing.worker`."""
    torch.set_num_threads(threads)
    return {"matrix_product": _matrix_product, "memory_copy": _memory_copy}


def _matrix_product(size: int) -> Work:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator) for _ in range(2))
    product = torch.empty(size, size)
    return Work(run=lambda: torch.mm(left, right, out=product), units=2 * size**3)


def _memory_copy(mebibytes: int) -> Work:
    source = torch.ones(mebibytes * 2**18)
    target = torch.zeros_like(source)
    # Every byte is read once and written once.
    return Work(run=lambda: target.copy_(source), units=2 * mebibytes * 2**20)


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure and print the machine alone."""
    threads = 2
    with Arena([contestant(threads=threads)], threads=threads) as arena:
        race = arena.race("machine", tasks(), rounds=7)
    spread = {label: max(taken) / statistics.median(taken) for label, taken in race.seconds.items()}
    print(json.dumps({**description(threads=threads), **speeds(race), "slowest_over_median": spread}, indent=2))


if __name__ == "__main__":
    main()
