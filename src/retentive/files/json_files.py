"""Small JSON files: written whole, and read with errors that name the file, the problem and the cure."""

import hashlib
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from retentive.errors import DamagedFileError, MismatchError
from retentive.files.writing import write_atomically


def write_json(path: Path, content: Mapping[str, Any], *, indent: int = 1) -> None:
    """Write an object whole or not at all; numbers that JSON does not have (NaN, infinity) are refused."""
    write_atomically(path, (json.dumps(content, indent=indent, allow_nan=False) + "\n").encode())


def read_json(path: Path, *, cure: str) -> dict[str, Any]:
    """Read an object from a file.

    Args:
        path: The file.
        cure: What the reader of the error should do, as in ``copy it again from its origin``.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is not UTF-8, not JSON, or holds no object; the message ends with the cure.
    """
    return parse_json(path.read_bytes(), path, cure=cure)


def parse_json(text: bytes, path: Path, *, cure: str) -> dict[str, Any]:
    """Parse the content of a file that was read already; see `read_json`."""
    try:
        content: object = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 ({error.reason} at byte {error.start:,})"
        raise DamagedFileError(f"{path} {problem}: {cure}.") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is not JSON ({error}): {cure}.") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} must hold a JSON object, but holds a {type(content).__name__}: {cure}.")
    return cast("dict[str, Any]", content)


@contextmanager
def explain_odd_content(path: Path, *, cure: str) -> Generator[None]:
    """Turn what taking a file's content apart raises, where a part is missing or of another kind, into one clear error.

    Raises:
        DamagedFileError: If anything does; the message names the file and ends with the cure.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise DamagedFileError(f"{path} lacks a part of what stands in such a file ({error!r}): {cure}.") from error


def canonical_json(value: object) -> str:
    """One text for equal values: names in order, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def json_checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of an object, whatever the order of its names and the white space in its file."""
    return hashlib.sha256(canonical_json(dict(content)).encode()).hexdigest()


def with_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its own checksum as one more entry, for files that `read_checked_json` reads."""
    return {**content, "checksum": json_checksum(content)}


def read_checked_json(path: Path, *, cure: str) -> dict[str, Any]:
    """Read an object that was written `with_checksum`, and return it without the checksum.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is no JSON object, or was altered after it was written.
    """
    return without_checksum(read_json(path, cure=cure), path, cure=cure)


def without_checksum(content: Mapping[str, Any], path: Path, *, cure: str) -> dict[str, Any]:
    """Compare an object that was read from ``path`` with the checksum in it, and return it without the checksum.

    Raises:
        DamagedFileError: If the two differ or there is no checksum.
    """
    rest = {name: value for name, value in content.items() if name != "checksum"}
    if content.get("checksum") != json_checksum(rest):
        raise DamagedFileError(f"{path} was altered after it was written (its checksum differs): {cure}.")
    return rest


def check_version(content: Mapping[str, Any], path: Path, version: int, *, cure: str) -> None:
    """Check the ``format_version`` of an object that was read from ``path``.

    Raises:
        MismatchError: If it is another one.
    """
    written = content.get("format_version")
    if written != version:
        raise MismatchError(
            f"{path} has format version {written!r}, but this retentive reads {version}: use the version that wrote "
            f"it, or {cure}."
        )
