"""The manifest of a token store: what must be there, written last and checked first."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from retentive.errors import DamagedFileError, MismatchError
from retentive.files import FileRecord, write_atomically

MANIFEST_FILE = "manifest.json"
FORMAT = "retentive token store"
FORMAT_VERSION = 1
PREPARE_AGAIN = "prepare the text again (retentive prepare ... --overwrite true), or copy the store again"

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecord:
    """Which tokenizer made the tokens, and the folder in the store that holds it."""

    name: str
    vocab_size: int
    end_of_text: int
    fingerprint: str
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRecord:
    """How much a split holds: documents, tokens (each document's end-of-text included), bytes of UTF-8 text."""

    documents: int
    tokens: int
    text_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that decides whether the other files are complete and undamaged.

    Attributes:
        tokenizer: Which tokenizer made the tokens.
        dtype: Numpy's name of the tokens on disk, ``<u2`` or ``<u4``: the smallest that fits, lowest byte first.
        splits: Counts of each split.
        files: Every other file of the store by its role, as in ``train-tokens``.
        request: What was asked for, to tell whether the same is asked again.
        problems: How many problems of each kind the text had.
    """

    tokenizer: TokenizerRecord
    dtype: str
    splits: Mapping[str, SplitRecord]
    files: Mapping[str, FileRecord]
    request: Mapping[str, Any]
    problems: Mapping[str, int]

    def write(self, folder: Path) -> None:
        """Put the manifest in place: from this moment the store is the one it describes."""
        content: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        content["checksum"] = _checksum(content)
        write_atomically(folder / MANIFEST_FILE, (json.dumps(content, indent=1) + "\n").encode())

    @staticmethod
    def read(folder: Path) -> "Manifest":
        """Read and check the manifest of a folder.

        Raises:
            FileNotFoundError: If there is no such folder.
            DamagedFileError: If the manifest is missing, damaged, or that of something else.
            MismatchError: If it has another format version.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no token store {str(folder)!r}: make one with `retentive prepare`.")
        path = folder / MANIFEST_FILE
        try:
            content: Any = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            message = f"{folder} holds no complete token store ({MANIFEST_FILE}, which is written last, is missing): "
            raise DamagedFileError(message + f"{PREPARE_AGAIN}.") from error
        except ValueError as error:
            raise DamagedFileError(f"{path} is not JSON ({error}): {PREPARE_AGAIN}.") from error
        if not isinstance(content, dict) or cast("dict[str, Any]", content).get("format") != FORMAT:
            raise DamagedFileError(f"{path} is not the manifest of a token store: give the folder of one.")
        return _from_content(cast("dict[str, Any]", content), path)


def is_manifest(path: Path) -> bool:
    """Whether a file is the manifest of some token store, whole or damaged, of whatever version."""
    return FORMAT.encode() in path.read_bytes()


def _from_content(content: dict[str, Any], path: Path) -> Manifest:
    version = content.pop("format_version", None)
    if version != FORMAT_VERSION:
        message = f"{path} has format version {version!r}, but this retentive reads {FORMAT_VERSION}: "
        raise MismatchError(message + "use the version that wrote it, or prepare the text again.")
    found = content.pop("checksum", None)
    if found != _checksum({**content, "format_version": version}):
        raise DamagedFileError(f"{path} was altered after it was written (its checksum differs): {PREPARE_AGAIN}.")
    return Manifest(
        tokenizer=TokenizerRecord(**content["tokenizer"]),
        dtype=content["dtype"],
        splits={name: SplitRecord(**record) for name, record in content["splits"].items()},
        files={role: FileRecord(**record) for role, record in content["files"].items()},
        request=content["request"],
        problems=content["problems"],
    )


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
