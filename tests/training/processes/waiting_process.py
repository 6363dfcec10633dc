"""Two processes whose group gives up after two seconds: the second one waits longer than that for the first."""

import time
from datetime import timedelta

import torch

from retentive.training.processes.processes import joined_processes


def main() -> None:
    """Wait. In a function, so that nothing refers to the groups when they are destroyed."""
    with joined_processes("cpu") as processes:
        processes.first_does(lambda: time.sleep(3.5))
        print(processes.gather(processes.rank))


torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=2))
main()
torch.distributed.destroy_process_group()
