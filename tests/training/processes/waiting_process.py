"""Two processes whose group gives up after a second: the second one waits longer than that for the first."""

import time
from datetime import timedelta

import torch

from retentive.training.processes.processes import joined_processes

torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=1))
with joined_processes("cpu") as processes:
    processes.first_does(lambda: time.sleep(2.5))
    print(processes.gather(processes.rank))
torch.distributed.destroy_process_group()
