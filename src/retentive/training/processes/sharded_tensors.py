"""Sharded tensors in one folder: torch's distributed checkpoints, as safetensors files.

Each process writes its own shards, and any number of processes can read them back. Torch's own folder format has its
metadata in a pickle, which can run code when it is read; here each safetensors file describes its shards itself.
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
"""Approximate size of a file, which is assembled in memory before it is written."""

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], processes: Processes) -> None:
    """Write tensors into safetensors files, which are synced to disk when this returns.

    The shards of a `DTensor` are written by the processes that hold them; any other tensor is written once, by one of
    the processes that pass it.

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
            dcp.save(
                dict(tensors), storage_writer=writer, process_group=processes.patient, no_dist=processes.count == 1
            )
    except CheckpointException as error:  # a BaseException, which nobody else would catch
        raise _cause(error) from error


def read_tensors(folder: Path, tensors: Mapping[str, Tensor], processes: Processes) -> None:
    """Fill tensors, whole or sharded over any number of processes, with what `write_tensors` wrote.

    The folder must have been checked to be whole, and names and shapes must be those of `stored_tensors`.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            reader = HuggingFaceStorageReader(str(folder))
            dcp.load(
                dict(tensors), storage_reader=reader, process_group=processes.patient, no_dist=processes.count == 1
            )
    except CheckpointException as error:
        raise _cause(error) from error


def stored_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return shape and dtype of every tensor of a folder, its shards joined."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in sorted(found.items())
        if isinstance(entry, TensorStorageMetadata)
    }


def _cause(error: CheckpointException) -> Exception | KeyboardInterrupt:
    """Return the error of the first process that failed, which torch's error hides: Ctrl-C among them."""
    first, _ = error.failures[min(error.failures)]
    if isinstance(first, OSError) and first.errno in _FULL_DISK:
        return OSError(first.errno, "the disk is full")
    return first if isinstance(first, Exception | KeyboardInterrupt) else RuntimeError(str(error))
