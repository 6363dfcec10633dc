"""The processes that train together, as ``torchrun`` starts them; one alone is the same with nothing to exchange."""

import gc
import os
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among its fellows.

    Attributes:
        rank: Its number, from 0.
        count: How many there are.
        device: Where its share of the work runs.
        mesh: All of them in a row, for sharding; None for one alone.
    """

    rank: int
    count: int
    device: torch.device
    mesh: DeviceMesh | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that prints, and writes what is written once."""
        return self.rank == 0

    def sum(self, numbers: Sequence[int | float]) -> list[float]:
        """The sum of each number over all processes, in float64."""
        if self.count == 1:
            return [float(number) for number in numbers]
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Value) -> list[Value]:
        """What each process gave, in the order of their numbers."""
        if self.count == 1:
            return [value]
        found: list[Value | None] = [None] * self.count
        dist.all_gather_object(found, value)
        return cast("list[Value]", found)

    def together(self, act: Callable[[], Value]) -> list[Value]:
        """Act in every process and gather what each returned; an error in one of them is raised in all."""
        if self.count == 1:
            return [act()]
        outcome: Value | Exception
        try:
            outcome = act()
        except Exception as error:
            outcome = error
        outcomes = self.gather(outcome)
        for found in outcomes:
            if isinstance(found, Exception):
                raise found
        return cast("list[Value]", outcomes)

    def first_does(self, act: Callable[[], object]) -> None:
        """Act in the first process alone while the others wait; an error there is raised in all."""
        self.together(act if self.is_first else lambda: None)


def alone(device: torch.device | None = None) -> Processes:
    """One process, on the CPU unless told otherwise."""
    return Processes(0, 1, torch.device("cpu") if device is None else device)


@contextmanager
def joined_processes(device: Literal["auto", "cpu", "cuda"]) -> Generator[Processes]:
    """Join the fellows that ``torchrun`` started, and part from them at the end.

    A model that is wrapped for them belongs in a function that is called in here, so that it is gone when they part.

    Raises:
        ValueError: If a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("hardware.device must be 'cpu' or 'auto' on this machine, for torch finds no GPU in it.")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(place)
    if count == 1:
        yield alone(place)
        return
    begun_here = not dist.is_initialized()
    if begun_here:
        dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), place, init_device_mesh(place.type, (count,)))
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        if begun_here:
            # What still holds the group (a wrapped model, and the frames of an error) must go first: the group's end
            # waits for its threads, and these can wait for the interpreter that ends it.
            gc.collect()
            dist.destroy_process_group()
