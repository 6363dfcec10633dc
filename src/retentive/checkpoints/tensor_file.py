"""One safetensors file of ours: written atomically, read with errors that name the file and the tensors."""

import errno
import hashlib
import json
import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from retentive.errors import DamagedFileError
from retentive.files import fill_atomically, full_disk

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class LateTensors(Mapping[str, Tensor]):
    """Tensors that are made each time they are asked for, so that memory holds one of them at a time.

    Args:
        shapes: Of every tensor.
        make: Makes the tensor of a name, of floating-point numbers, the same at each call.

    Attributes:
        shapes: Of every tensor.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], make: Callable[[str], Tensor]) -> None:
        self.shapes = shapes
        self._make = make

    def __getitem__(self, name: str) -> Tensor:
        """Make one tensor."""
        if name not in self.shapes:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self.shapes)


def shapes_of(tensors: Mapping[str, Tensor]) -> Mapping[str, torch.Size]:
    """The shape of every tensor; none of `LateTensors` is made."""
    return tensors.shapes if isinstance(tensors, LateTensors) else {name: one.shape for name, one in tensors.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata atomically.

    Raises:
        OSError: If the disk is full or the file cannot be written; an earlier file is left as it was.
    """
    try:
        if isinstance(tensors, LateTensors):
            fill_atomically(path, lambda temporary: _stream(temporary, tensors, metadata))
            return
        laid_out = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        fill_atomically(path, lambda temporary: save_file(laid_out, temporary, dict(metadata)))
    except (SafetensorError, OSError) as error:
        raise unwritten(path, error) from error


def _stream(path: Path, tensors: LateTensors, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file (8 bytes of length, a header in JSON, then the values) tensor by tensor."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    begin = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        end = begin + tensor.numel() * tensor.element_size()
        kind, shape = _NAMES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # values are aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(tensors[name].contiguous().view(torch.uint8).numpy().data)


class TensorReader:
    """An open tensor file."""

    def __init__(self, file: Any) -> None:
        """Read from what `safe_open` gave."""
        self._file = file
        self.names: frozenset[str] = frozenset(file.keys())
        self.metadata: dict[str, str] = file.metadata() or {}

    def shapes(self) -> dict[str, torch.Size]:
        """The shape of every tensor."""
        return {name: torch.Size(self._file.get_slice(name).get_shape()) for name in self.names}

    def floating_dtype(self) -> torch.dtype:
        """The dtype of the first tensor, by name, of floating-point numbers; no value is read."""
        kinds = (_DTYPES.get(self._file.get_slice(name).get_dtype()) for name in sorted(self.names))
        return next((kind for kind in kinds if kind is not None), torch.float32)

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own: later changes to the file cannot reach it."""
        # A mapped tensor may begin at any byte; only with aligned memory do products repeat to the last bit.
        return self._file.get_tensor(name).clone()


@contextmanager
def open_tensors(path: Path) -> Generator[TensorReader]:
    """Open a tensor file.

    Raises:
        DamagedFileError: If it is missing, cut off, or no safetensors file.
    """
    if not path.is_file():
        raise DamagedFileError(f"{path} is missing; copy it again from where the checkpoint was made.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield TensorReader(file)
    except SafetensorError as error:
        raise DamagedFileError(
            f"{path} cannot be read: {_damage(path) or error}; copy it again, or go back to an earlier one."
        ) from error


class TensorDigest:
    """SHA-256 over names, dtypes, shapes and values; add tensors in the order of their names."""

    def __init__(self) -> None:
        """Start with no tensor."""
        self._hash = hashlib.sha256()

    def add(self, name: str, tensor: Tensor) -> None:
        """Add one tensor to the digest."""
        self._hash.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        if flat.stride(0) != 1:  # a single number is contiguous whatever its stride
            flat = flat.clone(memory_format=torch.contiguous_format)
        self._hash.update(flat.view(torch.uint8).numpy().data)

    def hexdigest(self) -> str:
        """The digest of all that was added."""
        return self._hash.hexdigest()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """`TensorDigest` of all tensors."""
    whole = TensorDigest()
    for name in sorted(tensors):
        whole.add(name, tensors[name])
    return whole.hexdigest()


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + rest


def _damage(path: Path) -> str | None:
    """The tensors that a truncated file has lost; None where its header does not tell."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(8)
        if len(begin) < 8:
            return f"it ends after {size} bytes"
        (length,) = struct.unpack("<Q", begin)
        if length > size - 8:
            return f"it ends after {size} bytes, inside its header"
        try:
            header = json.loads(file.read(length))
            ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
    lost = [name for name, end in ends.items() if 8 + length + end > size]
    if not lost:
        return None
    return f"it ends after {size} of {8 + length + max(ends.values())} bytes, before the end of {listed(lost)}"


def unwritten(path: Path, reason: object) -> OSError:
    """The error to raise after a failed write, with the cure; its number is ``ENOSPC`` where the disk was full."""
    full = any(f"os error {code}" in str(reason) for code in (errno.ENOSPC, errno.EDQUOT))
    full = full or (isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT))
    if full:
        return full_disk(path)
    cure = "nothing half-written was kept, and an earlier file is as it was; choose another folder or disk"
    return OSError(errno.EIO, f"could not be written ({reason}); {cure}", str(path))
