"""The processes that train together, as ``torchrun`` starts them, or one process alone."""

import gc
import os
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

Value = TypeVar("Value")

_PATIENCE = timedelta(days=30)
"""How long processes wait while one of them prepares data or writes files: as long as it lives. The group that
exchanges gradients has torch's limit (10 minutes with NCCL), after which a process that hangs ends the run."""

_MESH = ("rows", "columns")
"""Of processes that read texts in parts: in a line of the mesh stand those that read the same rows."""


@dataclass(frozen=True, slots=True)
class Processes:
    """One of the processes that train together.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        device: Device of this process.
        mesh: One-dimensional device mesh of all processes, for sharding; None for one alone.
        patient: Process group, on CPUs, in which processes wait for work that may take hours; None is the default
            group.
        parts_of_text: Processes that read the same rows, each a part of their columns; their ranks follow one another.
        text_group: Process group of those that read the same rows as this one; None where each reads rows of its own.
    """

    rank: int
    count: int
    device: torch.device
    mesh: DeviceMesh | None = None
    patient: dist.ProcessGroup | None = None
    parts_of_text: int = 1
    text_group: dist.ProcessGroup | None = None

    @property
    def row_rank(self) -> int:
        """Number of the rows of a batch that this process reads."""
        return self.rank // self.parts_of_text

    @property
    def row_count(self) -> int:
        """How many shares the rows of a batch are cut into."""
        return self.count // self.parts_of_text

    @property
    def text_rank(self) -> int:
        """Number of the part of its rows' columns that this process reads."""
        return self.rank % self.parts_of_text

    @property
    def is_first(self) -> bool:
        """Whether this process prints, and writes the files that are written once."""
        return self.rank == 0

    def sum(self, numbers: Sequence[int | float]) -> list[float]:
        """Sum each number over all processes, in float64."""
        if self.count == 1:
            return [float(number) for number in numbers]
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Value) -> list[Value]:
        """Return every process's value, in the order of their ranks; wait for the slowest as long as it lives."""
        if self.count == 1:
            return [value]
        found: list[Value | None] = [None] * self.count
        dist.all_gather_object(found, value, group=self.patient)
        return cast("list[Value]", found)

    def together(self, act: Callable[[], Value]) -> list[Value]:
        """Call ``act`` in every process and return all results; an error in one process is raised in all."""
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
        """Call ``act`` in the first process while the others wait; an error there is raised in all."""
        self.together(act if self.is_first else lambda: None)


def alone(device: torch.device | None = None) -> Processes:
    """Return a single process, on the CPU by default."""
    return Processes(0, 1, torch.device("cpu") if device is None else device)


@contextmanager
def joined_processes(device: Literal["auto", "cpu", "cuda"], parts_of_text: int = 1) -> Generator[Processes]:
    """Join the process group that ``torchrun`` started, and leave it at the end.

    Create DDP and FSDP models in a function called inside this context, so that they are freed before the group ends.

    Args:
        device: Where the processes compute.
        parts_of_text: Processes that read the same rows, each a part of their columns.

    Raises:
        ValueError: If a GPU is asked for and there is none, or the processes cannot be grouped for texts in parts.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("hardware.device must be 'cpu' or 'auto' on this machine, where torch finds no GPU.")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if count % parts_of_text:
        raise ValueError(
            f"hardware.sequence_parallel must divide the number of processes, {count}, but is {parts_of_text}; "
            f"torchrun --nproc-per-node {parts_of_text} starts as many."
        )
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
        mesh = init_device_mesh(place.type, (count,))
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
        text_group = None
        if parts_of_text > 1:
            grouped = init_device_mesh(place.type, (count // parts_of_text, parts_of_text), mesh_dim_names=_MESH)
            text_group = grouped.get_group("columns")
        yield Processes(
            rank=dist.get_rank(),
            count=dist.get_world_size(),
            device=place,
            mesh=mesh,
            patient=cast("dist.ProcessGroup", patient),
            parts_of_text=parts_of_text,
            text_group=text_group,
        )
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        if begun_here:
            # Free what still refers to the group first (a wrapped model, the frames of an error): destroying the group
            # waits for its threads, which may wait for this interpreter.
            gc.collect()
            dist.destroy_process_group()
