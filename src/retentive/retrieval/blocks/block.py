"""Blocks: immutable files of arrays that say what they are and can be checked on their own.

A block is a safetensors file, so other tools can read it. Its name is its key, a hash of everything that it was made
from. A changed input gives another key, so a finished block is never out of date and never overwritten. Its last
tensor, ``checksum``, is the SHA-256 of all bytes before it: a block that is truncated, altered, zeroed or renamed is
detected without any other file.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from retentive.errors import DamagedFileError
from retentive.files import canonical_json, explain_full_disk, write_atomically
from retentive.files.growing_array import GrowingArray

SUFFIX = ".safetensors"
FORMAT_VERSION = 2
"""Version 1 kept tokens and not the text."""

STORE_CURE = "build the store again from the same documents: only damaged and missing blocks are made anew"
_TABLE_CURE = "build the neighbours again (retentive index reindex --table true)"
_CURES = {
    "chunks": "build or sync the store from its source again, or add its documents again where add brought them: "
    "all else is kept",
    "vectors": "retentive index reindex makes it again, without a source",
    "signatures": _TABLE_CURE,
    "neighbours": _TABLE_CURE,
}
"""What mends a block, by its folder."""

_CHECKSUM_BYTES = 32
_READ_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 24
_DTYPES = {
    "U8": np.dtype("<u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def key_of(*parts: object) -> str:
    """The key of what is made from ``parts``: 128 bits of the SHA-256 of them and of the format version."""
    return hashlib.sha256(canonical_json([FORMAT_VERSION, *parts]).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """An open block.

    Attributes:
        arrays: Memory-mapped and read-only.
        checksum: SHA-256 of the content, as the file states it.
    """

    arrays: Mapping[str, np.ndarray]
    checksum: str


def block_path(folder: Path, kind: str, key: str) -> Path:
    """The path of a block."""
    return folder / kind / f"{key}{SUFFIX}"


def write_block(folder: Path, kind: str, key: str, arrays: Mapping[str, np.ndarray | GrowingArray]) -> str:
    """Write a block whole or not at all, and return its checksum.

    Args:
        folder: Folder of the store.
        kind: Kind of its content, as in ``chunks``; also the name of its folder.
        key: Its name, from `key_of`.
        arrays: Its content, in memory or not. The same arrays give the same bytes.
    """
    # Wide items first, so that every array is aligned to its item size.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"block": canonical_json({"kind": kind, "key": key})}}
    begin = 0
    for name in names:
        array = arrays[name]
        code = _CODES[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, begin + array.nbytes]}
        begin += array.nbytes
    header["checksum"] = {"dtype": "U8", "shape": [_CHECKSUM_BYTES], "data_offsets": [begin, begin + _CHECKSUM_BYTES]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()

    def content() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little")
        yield text
        for name in names:
            yield from _parts(arrays[name])

    def hashed() -> Iterator[bytes | memoryview]:
        for part in content():
            digest.update(part)
            yield part
        yield digest.digest()

    write_store_file(block_path(folder, kind, key), hashed())
    return digest.hexdigest()


def _parts(array: np.ndarray | GrowingArray) -> Iterator[memoryview]:
    """The bytes of an array, little-endian."""
    if isinstance(array, GrowingArray):
        yield from array.parts()
    else:
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        yield little.reshape(-1).view(np.uint8).data


@lru_cache(maxsize=1024)  # a store may have more blocks than a process may have mappings
def read_block(folder: Path, kind: str, key: str) -> Block:
    """Open a block, memory-mapped. All of it is read once, and compared with its checksum.

    Raises:
        DamagedFileError: If it is missing, truncated, altered, or not the block that its name says.
    """
    path = block_path(folder, kind, key)
    # Read as a file, and mapped after that: pages of a mapping that were read would count as memory of this process.
    problem, checksum = check_block(folder, kind, key)
    if problem is not None:
        raise damaged(path, problem)
    try:
        content = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise damaged(path, "cannot be read" if path.exists() else "is missing") from error
    header, begin = _header(path, content[:8].tobytes(), lambda size: content[8 : 8 + size].tobytes())
    arrays: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            arrays[name] = content[begin + first : begin + last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    del arrays["checksum"]
    return Block(arrays=arrays, checksum=checksum)


def check_block(folder: Path, kind: str, key: str) -> tuple[str | None, str]:
    """Read a whole block: ``(None, checksum)`` if it is undamaged, else ``(problem, "")``."""
    path = block_path(folder, kind, key)
    try:
        with path.open("rb") as file:
            length = path.stat().st_size
            if length < _CHECKSUM_BYTES + 8:
                return f"is cut: it has {length} bytes", ""
            header, begin = _header(path, file.read(8), file.read)
            reason = _wrong_header(header, begin, length, kind, key)
            if reason is not None:
                return reason, ""
            file.seek(0)
            digest, left = hashlib.sha256(), length - _CHECKSUM_BYTES
            while left > 0:
                part = file.read(min(left, _READ_BYTES))
                digest.update(part)
                left -= len(part)
            stated = file.read()
    except FileNotFoundError:
        return "is missing", ""
    except DamagedFileError as error:
        return str(error.__cause__ or "has no readable header"), ""
    except OSError as error:
        return f"cannot be read ({error.strerror})", ""
    if digest.digest() != stated:
        return "does not have the content that its checksum was taken of", ""
    return None, stated.hex()


def write_store_file(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Write one file of a store whole or not at all; several builders may write it at the same time."""
    with explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, several_writers=True)


def damaged(path: Path, reason: str) -> DamagedFileError:
    """The error for a damaged file of a store, with the cure."""
    return DamagedFileError(f"{path} {reason}: {_CURES.get(path.parent.name, STORE_CURE)}.")


def _header(path: Path, length: bytes, read: Any) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(length, "little")
    if not 0 < size <= _MAX_HEADER_BYTES:
        raise damaged(path, "has no readable header") from ValueError("has no readable header")
    try:
        header = json.loads(read(size))
    except ValueError as error:
        raise damaged(path, "has no readable header") from ValueError(
            f"has no readable header ({type(error).__name__})"
        )
    if not isinstance(header, dict):
        raise damaged(path, "has no readable header") from ValueError("has no readable header")
    return header, 8 + size


def _wrong_header(header: dict[str, Any], begin: int, length: int, kind: str, key: str) -> str | None:
    try:
        stated = json.loads(header["__metadata__"]["block"])
        if stated != {"kind": kind, "key": key}:
            return f"holds another block ({stated['kind']} {stated['key']})"
        end = header["checksum"]["data_offsets"][1]
        if begin + end != length:
            return f"is cut: it has {length} bytes, not {begin + end}"
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                if last - first != _DTYPES[entry["dtype"]].itemsize * math.prod(entry["shape"]):
                    return "has a header that contradicts itself"
    except (KeyError, TypeError, ValueError):
        return "has no readable header"
    return None
