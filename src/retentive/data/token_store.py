"""Tokens on disk, memory-mapped, with their documents; reading never writes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from jaxtyping import Int64, UInt16, UInt32

from retentive.data.manifest import PREPARE_AGAIN, SPLITS, Manifest, Split
from retentive.data.sources.documents import Problem
from retentive.errors import DamagedFileError, MismatchError
from retentive.files import FileRecord, checksum
from retentive.files.progress import ProgressBar
from retentive.text.loading import load_tokenizer
from retentive.text.tokenizer import Tokenizer

StoredTokens = UInt16[np.ndarray, "tokens"] | UInt32[np.ndarray, "tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRecord:
    """One document of a token store.

    Attributes:
        name: Where its text came from; see `retentive.data.sources.documents.Document`.
        split: Its split.
        index: Its number in the split.
        num_tokens: Its tokens, end-of-text included.
        num_bytes: Bytes of its text in UTF-8.
    """

    name: str
    split: Split
    index: int
    num_tokens: int
    num_bytes: int


class TokenStore:
    """The tokens of a corpus, split by document into ``train`` and ``heldout``; made by `TokenStore.open`.

    Every document ends in the end-of-text token. Which split a document falls in depends on its content alone (see
    `retentive.data.splitting`). A store can be pickled: the other process opens it again.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._mapped: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, folder: Path | str) -> "TokenStore":
        """Open a store; sizes are checked now, contents by `verify`.

        Raises:
            FileNotFoundError: If there is no such folder.
            DamagedFileError: If a file is missing or has another size; the message names it.
            MismatchError: If the store has another format version.
        """
        store = cls(Path(folder), Manifest.read(Path(folder)))
        for record in store.manifest.files.values():
            path = store.folder / record.path
            if not path.is_file():
                raise DamagedFileError(f"{path} is missing: {PREPARE_AGAIN}.")
            if (found := path.stat().st_size) != record.size:
                raise DamagedFileError(f"{path} has {found:,} bytes instead of {record.size:,}: {PREPARE_AGAIN}.")
        return store

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the folder's path, not the tokens."""
        return TokenStore.open, (self.folder,)

    def tokens(self, split: Split) -> StoredTokens:
        """All tokens of a split in order, as a read-only memory map."""
        return self._map(split, "tokens", np.dtype(self.manifest.dtype))

    def document_offsets(self, split: Split) -> Int64[np.ndarray, "documents_and_1"]:
        """Where each document begins in `tokens`, and at the end the number of tokens."""
        return self._map(split, "offsets", np.dtype("<i8"))

    def document_bytes(self, split: Split) -> Int64[np.ndarray, "documents"]:
        """Bytes of each document's text in UTF-8."""
        return self._map(split, "bytes", np.dtype("<i8"))

    def document_names(self, split: Split) -> list[str]:
        """Where each document's text came from, read anew at each call."""
        text = self._path(split, "names").read_bytes().decode("utf-8")
        return text.split("\n")[:-1]

    @cached_property
    def documents(self) -> "DocumentTable":
        """Every document of both splits, ``train`` first."""
        return DocumentTable(self)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens.

        Raises:
            MismatchError: If the tokenizer in the store is not the one that the manifest names.
        """
        folder = self.folder / self.manifest.tokenizer.folder
        tokenizer = load_tokenizer(folder)
        if tokenizer.fingerprint() != self.manifest.tokenizer.fingerprint:
            raise MismatchError(f"{folder} holds another tokenizer than the one of the tokens: {PREPARE_AGAIN}.")
        return tokenizer

    def problems(self) -> Iterator[Problem]:
        """Read what was wrong with the text when the store was made, one problem at a time.

        Raises:
            DamagedFileError: If a line is not what `prepare` writes; the message names file and line.
        """
        path = self.folder / self.manifest.files["problems"].path
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield Problem(**json.loads(line))
                except (ValueError, TypeError) as error:
                    message = f"line {number} of {path} holds no problem ({error}): {PREPARE_AGAIN}."
                    raise DamagedFileError(message) from error

    def verify(self, *splits: Split) -> None:
        """Read every file and compare it with its checksum, with a bar where it takes more than two seconds.

        Args:
            splits: Leave out the files of other splits; without any, all are read.

        Raises:
            DamagedFileError: If any differ; the message names each of them.
        """
        others = [f"{split}-" for split in SPLITS if splits and split not in splits]
        records = [record for role, record in self.manifest.files.items() if not role.startswith(tuple(others))]
        with ProgressBar("check the token store", total=sum(record.size for record in records), unit="B") as progress:
            damaged = [self.folder / one.path for one in records if not self._is_whole(one, progress)]
        if damaged:
            names = ", ".join(map(str, damaged))
            raise DamagedFileError(f"{names}: the content differs from its checksum; {PREPARE_AGAIN}.")

    def _is_whole(self, record: FileRecord, progress: ProgressBar) -> bool:
        path = self.folder / record.path
        return path.is_file() and checksum(path, progress.advance) == record.sha256

    def _path(self, split: Split, part: str) -> Path:
        if split not in SPLITS:
            raise ValueError(f"split must be 'train' or 'heldout', but is {split!r}.")
        return self.folder / self.manifest.files[f"{split}-{part}"].path

    def _map(self, split: Split, part: str, dtype: np.dtype) -> np.ndarray:
        path = self._path(split, part)
        if path.name not in self._mapped:
            empty = path.stat().st_size == 0  # an empty file cannot be mapped
            self._mapped[path.name] = np.empty(0, dtype) if empty else np.memmap(path, dtype=dtype, mode="r")
        return self._mapped[path.name]


class DocumentTable(Sequence[DocumentRecord]):
    """The documents of a store by number, without an object for each of them in memory."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self._names = {split: store.document_names(split) for split in SPLITS}

    def __len__(self) -> int:
        """Documents of both splits."""
        return sum(map(len, self._names.values()))

    @overload
    def __getitem__(self, index: int) -> DocumentRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[DocumentRecord]: ...
    def __getitem__(self, index: int | slice) -> DocumentRecord | list[DocumentRecord]:
        """One document, or some."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        in_train = len(self._names["train"])
        split: Split = "train" if number < in_train else "heldout"
        number -= 0 if split == "train" else in_train
        begin, end = self._store.document_offsets(split)[number : number + 2].tolist()
        return DocumentRecord(
            name=self._names[split][number],
            split=split,
            index=number,
            num_tokens=end - begin,
            num_bytes=int(self._store.document_bytes(split)[number]),
        )
