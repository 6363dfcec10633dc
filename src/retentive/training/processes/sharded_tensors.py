"""Tensors of many processes in one folder: torch's distributed checkpoints, kept as safetensors.

Each process writes what it alone holds, and any number of processes reads it back. Torch's own folder format describes
itself in a pickle, which can run code when it is read; here each safetensors file says which piece it holds.
"""

import errno
import warnings
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from retentive.training.processes.processes import Processes

_FILE_BYTES = 2 << 30
"""Tensors of one file, about; a file is put together in memory before it is written."""

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], processes: Processes) -> None:
    """Write tensors into safetensors files, on disk for good when this returns.

    A `DTensor` is written piece by piece by the processes that hold the pieces; any other tensor once, by one of those
    that give it.

    Raises:
        OSError: If the disk is full or a file cannot be written, in any of the processes; raised in all of them.
    """
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    all_sizes = dict(entry for found in processes.gather(sizes) for entry in found.items())
    starts = accumulate(all_sizes.values(), initial=0)
    files = {name: 1 + start // _FILE_BYTES for name, start in zip(all_sizes, starts, strict=False)}
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=files, save_distributed=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.save(dict(tensors), storage_writer=writer, no_dist=processes.count == 1)
    except CheckpointException as error:  # a BaseException, which nobody else would catch
        raise _cause(error) from error


def read_tensors(folder: Path, tensors: Mapping[str, Tensor], processes: Processes) -> None:
    """Fill tensors, whole or sharded over any number of processes, with what `write_tensors` wrote.

    The folder must be known to be whole, and the names and shapes to be those of `stored_tensors`.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            reader = HuggingFaceStorageReader(str(folder))
            dcp.load(dict(tensors), storage_reader=reader, no_dist=processes.count == 1)
    except CheckpointException as error:
        raise _cause(error) from error


def stored_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of every tensor of a folder, its pieces put together."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in sorted(found.items())
        if isinstance(entry, TensorStorageMetadata)
    }


def _cause(error: CheckpointException) -> Exception:
    """The error behind torch's, which is hard to read: that of the first process that failed."""
    first, _ = error.failures[min(error.failures)]
    if isinstance(first, OSError) and first.errno in _FULL_DISK:
        return OSError(first.errno, "the disk is full")
    return first if isinstance(first, Exception) else RuntimeError(str(error))
