"""FAISS files: written so that a full disk is an error and not a crash, and without a word on standard output."""

import errno
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retentive.errors import DamagedFileError
from retentive.extras import require
from retentive.retrieval.blocks.sealed_folder import MEND

INDEX_FILE = "index.faiss"
LISTS_FILE = "index.ivfdata"
_ID_BYTES = 8


def write_index(index: Any, path: Path) -> None:
    """Write an index.

    Raises:
        OSError: If the disk is full.
    """
    import faiss

    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        if "No space left" in str(error) or "write error" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def merge_on_disk(trained: Any, shards: Sequence[Path], lists_file: Path) -> None:
    """Give a trained, empty index the inverted lists of all shards, in a file that is mapped into memory.

    Raises:
        OSError: If the disk is full.
    """
    import faiss

    pointers: Any = getattr(faiss, "InvertedListsPtrVector")()  # noqa: B009 - its stubs do not know it
    rows = 0
    # Kept until the lists are merged: each owns the lists that a pointer leads to.
    parts: list[Any] = [faiss.read_index(str(shard), faiss.IO_FLAG_MMAP) for shard in shards]
    for part in parts:
        pointers.push_back(faiss.extract_index_ivf(part).invlists)
        rows += part.ntotal
    index: Any = faiss.extract_index_ivf(trained)
    _require_room(lists_file, rows * (index.code_size + _ID_BYTES))
    with _standard_output_to_error():
        lists: Any = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(lists_file))
        merged = lists.merge_from_multiple(pointers.data(), pointers.size(), False)
    trained.ntotal = index.ntotal = merged
    index.replace_invlists(lists, True)
    lists.this.disown()


def _require_room(path: Path, size: int) -> None:
    """Reserve the whole file once before FAISS maps it: a mapped page that finds no room ends the process.

    Raises:
        OSError: If the disk is full.
    """
    if size == 0:
        return
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    finally:
        path.unlink()  # FAISS makes the file itself, and takes no other


def read_index(place: Path) -> Any:
    """Open a FAISS file, mapped into memory where FAISS can.

    Raises:
        DamagedFileError: If FAISS cannot read it.
    """
    require("faiss", "a vector index")
    import faiss

    # Inverted lists on disk must not be opened with the memory-mapping flag: FAISS crashes.
    on_disk = (place / LISTS_FILE).exists()
    flags = faiss.IO_FLAG_READ_ONLY | faiss.IO_FLAG_ONDISK_SAME_DIR if on_disk else faiss.IO_FLAG_MMAP_IFC
    try:
        if not on_disk:
            return faiss.read_index(str(place / INDEX_FILE), flags)
        with _standard_output_to_error():
            return faiss.read_index(str(place / INDEX_FILE), flags)
    except RuntimeError as error:
        raise unreadable(place, str(error).splitlines()[0]) from error


def unreadable(place: Path, reason: object) -> DamagedFileError:
    """The error for an index that cannot be used."""
    return DamagedFileError(f"the vector index {str(place)!r} cannot be opened ({reason}): {MEND}.")


@contextmanager
def _standard_output_to_error() -> Generator[None]:
    """Send what FAISS prints to standard error: standard output belongs to the answers of a command."""
    import ctypes

    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C has not written yet
        os.dup2(kept, 1)
        os.close(kept)
