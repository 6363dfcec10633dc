"""Arrays that grow while they are made: what is long goes to a file, so that memory stays the same."""

from collections.abc import Iterator
from copy import copy
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

import numpy as np

from retentive.files.writing import explain_full_disk

_HELD_BYTES = 4 << 20
"""Bytes of an array that are held in memory; of longer ones all are in a file."""

_PART_BYTES = 1 << 20


def made_folder(folder: Path) -> Path:
    """A folder, made if it is not there."""
    with explain_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


class GrowingArray:
    """An array to which rows are appended.

    Its file has no name, so nothing is left of it when the process ends.

    Args:
        place: Folder of the file, beside what is made: the system's folder for temporary files may be small.
        dtype: Type of the numbers.
        columns: Numbers in a row; without it the array has one dimension.
    """

    def __init__(self, place: Path, dtype: np.dtype | type[np.generic], columns: int | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self._columns = columns
        self._place = place
        self._kept = self.dtype
        self._bytes = 0
        self._file: IO[bytes] = SpooledTemporaryFile(max_size=_HELD_BYTES, dir=str(place))  # noqa: SIM115 (as long as self)

    def append(self, rows: np.ndarray) -> None:
        """Append rows of the array's type."""
        content = np.ascontiguousarray(rows, dtype=self._kept.newbyteorder("<"))
        with explain_full_disk(self._place):
            self._file.write(content.tobytes())
        self._bytes += content.nbytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and the columns where there are some."""
        count = self._bytes // self._kept.itemsize
        return (count,) if self._columns is None else (count // max(self._columns, 1), self._columns)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self._bytes // self._kept.itemsize * self.dtype.itemsize

    def narrowed(self, dtype: np.dtype | type[np.generic]) -> "GrowingArray":
        """The same numbers, of another type."""
        other = copy(self)
        other.dtype = np.dtype(dtype)
        return other

    def parts(self) -> Iterator[memoryview]:
        """The bytes of all rows in order, little-endian."""
        self._file.seek(0)
        while part := self._file.read(_PART_BYTES):
            numbers = np.frombuffer(part, dtype=self._kept.newbyteorder("<"))
            yield numbers.astype(self.dtype.newbyteorder("<"), copy=False).view(np.uint8).data
        self._file.seek(0, 2)

    def arrays(self) -> Iterator[np.ndarray]:
        """The rows of one dimension, some at a time."""
        for part in self.parts():
            yield np.frombuffer(part, dtype=self.dtype.newbyteorder("<"))

    def read(self) -> np.ndarray:
        """All rows, in memory."""
        content = b"".join(self.parts())
        return np.frombuffer(content, dtype=self.dtype.newbyteorder("<")).reshape(self.shape)
