"""Reading a GGUF file: its metadata, and one tensor at a time, dequantised."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from retentive.checkpoints.conversion.gguf.kinds import check_kinds
from retentive.errors import DamagedFileError, MismatchError

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

SUFFIX = ".gguf"
PLAIN = ("F32", "F16", "F64")
QUANTISED = ("BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
CURE = "take a file of the same model with another quantisation, such as Q8_0 or F16"
PIECE = 1 << 22
"""Weights that are dequantised at once: what stands beside a tensor while it is read stays small."""


class GgufFile:
    """An open GGUF file; tensors are read from the mapped file when they are asked for.

    Args:
        path: The file.

    Attributes:
        path: The file.
        metadata: Values by key, such as ``llama.block_count``; arrays are lists.
        shapes: Of every tensor, as torch has it: rows first.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the ``gguf`` package is not installed.
        DamagedFileError: If the file is cut off or is no GGUF.
        MismatchError: If its byte order or the quantisation of a tensor is not supported, or its metadata cannot be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = _open(path)
        if self._reader.byte_order != "I":
            raise MismatchError(f"{path} must have this machine's byte order, but has the other one; {CURE}.")
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.metadata: Mapping[str, Any] = _metadata(self._reader, path)
        check_kinds(self.metadata, path)
        self._reader.fields.clear()  # several arrays a token, more memory than the weights of a small model
        strange = {one.tensor_type.name for one in self._tensors.values()} - {*PLAIN, *QUANTISED}
        if strange:
            raise MismatchError(
                f"{path} must hold tensors of the types {', '.join((*PLAIN, *QUANTISED))}, but has "
                f"{', '.join(sorted(strange))}; {CURE}."
            )
        self.shapes = {name: torch.Size(reversed(one.shape.tolist())) for name, one in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """Return a tensor as float32."""
        tensor = self._tensors[name]
        found = torch.empty(self.shapes[name], dtype=torch.float32)
        _fill(found.numpy(), tensor)
        return found


def _open(path: Path) -> "GGUFReader":
    if not path.is_file():
        raise FileNotFoundError(f"source must be a folder or file of weights, but there is no {path}.")
    if find_spec("gguf") is None:
        raise ImportError("a GGUF file is read with the package gguf: pip install 'retentive[gguf]'")
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except Exception as error:  # the package checks little: a file that is cut off fails wherever its bytes end
        if "GGMLQuantizationType" in str(error):
            raise MismatchError(f"{path} has a tensor of a type that is unknown ({error}); {CURE}.") from error
        raise DamagedFileError(f"{path} cannot be read as GGUF ({error!r}): copy it again.") from error


def _metadata(reader: "GGUFReader", path: Path) -> dict[str, Any]:
    try:
        return {name: field.contents() for name, field in reader.fields.items()}
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} has metadata that is not UTF-8 ({error}): copy it again.") from error


def _fill(found: "np.ndarray[Any, np.dtype[np.float32]]", tensor: "ReaderTensor") -> None:
    if tensor.tensor_type.name in PLAIN:
        np.copyto(found, tensor.data.reshape(found.shape), casting="same_kind")
        return
    from gguf.quants import dequantize

    rows = found.reshape(-1, found.shape[-1])
    data = tensor.data.reshape(rows.shape[0], -1)
    step = max(1, PIECE // rows.shape[1])
    for first in range(0, rows.shape[0], step):
        rows[first : first + step] = dequantize(data[first : first + step], tensor.tensor_type)
