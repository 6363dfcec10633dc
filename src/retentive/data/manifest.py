"""The manifest of a token store: it lists every other file, is written last and checked first."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from retentive.errors import DamagedFileError
from retentive.files import FileRecord, check_version, read_json, with_checksum, without_checksum, write_json

MANIFEST_FILE = "manifest.json"
FORMAT = "retentive token store"
FORMAT_VERSION = 1
PREPARE_AGAIN = "prepare the text again (retentive prepare ... --overwrite true), or copy the store again"

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecord:
    """The tokenizer that made the tokens, and its folder in the store.

    Attributes:
        name: Kind of tokenizer.
        vocab_size: Number of its ids.
        end_of_text: The id that closes every document.
        fingerprint: SHA-256 over everything that decides ids.
        folder: Its folder in the store.
        begin_of_text: The id after which a document is read; None, as in stores of earlier versions, is the one that
            closes it.
    """

    name: str
    vocab_size: int
    end_of_text: int
    fingerprint: str
    folder: str
    begin_of_text: int | None = None

    @property
    def document_begin(self) -> int:
        """The id after which a document is read."""
        return self.end_of_text if self.begin_of_text is None else self.begin_of_text


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRecord:
    """Counts of one split: documents, tokens (each document's end-of-text included), bytes of UTF-8 text."""

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
        request: The options and source files of the `prepare` call; the same request finds its store again.
        problems: Number of problems of each kind in the text.
    """

    tokenizer: TokenizerRecord
    dtype: str
    splits: Mapping[str, SplitRecord]
    files: Mapping[str, FileRecord]
    request: Mapping[str, Any]
    problems: Mapping[str, int]

    def write(self, folder: Path) -> None:
        """Write the manifest; from then on the store is the one that it describes."""
        content: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        write_json(folder / MANIFEST_FILE, with_checksum(content))

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
            content = read_json(path, cure=PREPARE_AGAIN)
        except FileNotFoundError as error:
            message = f"{folder} holds no complete token store ({MANIFEST_FILE}, which is written last, is missing): "
            raise DamagedFileError(message + f"{PREPARE_AGAIN}.") from error
        if content.get("format") != FORMAT:
            raise DamagedFileError(f"{path} is not the manifest of a token store: give the folder of one.")
        return _from_content(content, path)


def is_manifest(path: Path) -> bool:
    """Whether a file is the manifest of some token store, whole or damaged, of whatever version."""
    return FORMAT.encode() in path.read_bytes()


def _from_content(content: dict[str, Any], path: Path) -> Manifest:
    check_version(content, path, FORMAT_VERSION, cure="prepare the text again")
    content = without_checksum(content, path, cure=PREPARE_AGAIN)
    return Manifest(
        tokenizer=TokenizerRecord(**content["tokenizer"]),
        dtype=content["dtype"],
        splits={name: SplitRecord(**record) for name, record in content["splits"].items()},
        files={role: FileRecord(**record) for role, record in content["files"].items()},
        request=content["request"],
        problems=content["problems"],
    )
