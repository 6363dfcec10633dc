"""Writing a token store: a kill at any moment leaves the old store or none, never a part of one."""

import json
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from retentive.data.manifest import (
    MANIFEST_FILE,
    SPLITS,
    Manifest,
    Split,
    SplitRecord,
    TokenizerRecord,
    is_manifest,
)
from retentive.data.sources.documents import Problem
from retentive.data.token_store import TokenStore
from retentive.errors import DamagedFileError, MismatchError
from retentive.files import (
    TEMPORARY_SUFFIX,
    FileRecord,
    GrowingFile,
    checksum,
    folder_with_content,
    only_writer,
    sync,
)
from retentive.files.growing_array import GrowingArray
from retentive.text.tokenizer import TokenIds, Tokenizer, begin_of

_HASH = "-[0-9a-f]{16}"
_DATA = r"(train|heldout)-(tokens|offsets|bytes|names)%s\.(bin|txt)|problems%s\.jsonl"
# Every name that this module may write, finished or temporary; it removes no other.
_OURS = re.compile(
    f"{_DATA % (_HASH, _HASH)}|tokenizer{_HASH}|"
    f"({_DATA % ('', '')}|{re.escape(MANIFEST_FILE)}){re.escape(TEMPORARY_SUFFIX)}"
)


class TokenStoreWriter:
    """Writes a store document by document; use it in a ``with`` block and call `finish` at its end.

    Data files carry their content's hash in their names and the manifest, which names them, is replaced last. Until
    then an older store in the folder stays whole; after that its files are removed.

    Args:
        folder: Folder of the store, made if it is not there.
        tokenizer: What makes the tokens; saved in the store.
        request: The options of the call, kept in the manifest.
        overwrite: Whether a store that is there may be replaced.

    Attributes:
        folder: Folder of the store.

    Raises:
        FileExistsError: If the folder holds a store and ``overwrite`` is False, or holds other things.
        BlockingIOError: If another process writes there.
    """

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, *, request: Mapping[str, Any] | None = None, overwrite: bool = False
    ) -> None:
        self.folder, self._tokenizer, self._request = folder, tokenizer, dict(request or {})
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self._ending = np.asarray([tokenizer.end_of_text], dtype=self._dtype)
        self._open = ExitStack()
        with self._open:  # releases the lock and removes files if this constructor fails
            self._open.enter_context(folder_with_content(folder))
            self._open.enter_context(only_writer(folder))
            self._open.callback(_remove_leftovers, folder)
            check_output(folder, overwrite=overwrite)
            _remove_leftovers(folder)
            self._problems = self._grow("problems", ".jsonl")
            self.problem_counts: Counter[str] = Counter()
            self.first_problem: Problem | None = None
            self._tokens = {split: self._grow(f"{split}-tokens", ".bin") for split in SPLITS}
            self._names = {split: self._grow(f"{split}-names", ".txt") for split in SPLITS}
            self._offsets = {split: array("q", [0]) for split in SPLITS}
            self._bytes = {split: array("q") for split in SPLITS}
            self._open = self._open.pop_all()

    def __enter__(self) -> "TokenStoreWriter":
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove unfinished files, so that they take no space on a full disk."""
        self._open.close()

    def add(self, name: str, ids: TokenIds | GrowingArray, *, num_bytes: int, split: Split) -> None:
        """Append a document; end-of-text is appended after it.

        Args:
            name: Where the text came from; one line.
            ids: Its tokens, at least one; those of a long text need not be in memory.
            num_bytes: Bytes of its text in UTF-8.
            split: Where it belongs.
        """
        if (length := ids.shape[0]) == 0:
            raise ValueError(f"document {name!r} must have at least one token, but has none.")
        if (largest := max(int(part.max()) for part in some_at_a_time(ids))) >= self._tokenizer.vocab_size:
            limit = self._tokenizer.vocab_size - 1
            raise ValueError(f"token ids of {name!r} must be at most {limit}, but one is {largest}.")
        if "\n" in name:
            raise ValueError(f"name must be one line, but is {name!r}.")
        for part in (*some_at_a_time(ids), self._ending):
            self._tokens[split].write(part.astype(self._dtype).tobytes())
        self._names[split].write(f"{name}\n".encode())
        self._offsets[split].append(self._offsets[split][-1] + length + 1)
        self._bytes[split].append(num_bytes)

    def report(self, problem: Problem) -> None:
        """Record a problem of the text in the store."""
        self._problems.write((json.dumps(asdict(problem)) + "\n").encode())
        self.problem_counts[problem.kind] += 1
        self.first_problem = self.first_problem or problem

    def counts(self) -> dict[str, SplitRecord]:
        """Counts of the documents added so far."""
        return {
            split: SplitRecord(
                documents=len(self._bytes[split]), tokens=self._offsets[split][-1], text_bytes=sum(self._bytes[split])
            )
            for split in SPLITS
        }

    def finish(self) -> TokenStore:
        """Sync all files to disk, the manifest last, remove files of the earlier store, and open the new one."""
        files = {"problems": self._problems.commit()}
        for split in SPLITS:
            files[f"{split}-tokens"] = self._tokens[split].commit()
            files[f"{split}-names"] = self._names[split].commit()
            for part, numbers in (("offsets", self._offsets[split]), ("bytes", self._bytes[split])):
                grown = self._grow(f"{split}-{part}", ".bin")
                grown.write(np.asarray(numbers, dtype="<i8").tobytes())
                files[f"{split}-{part}"] = grown.commit()
        fingerprint = self._tokenizer.fingerprint()
        tokenizer_folder = f"tokenizer-{fingerprint[:16]}"
        self._tokenizer.save(self.folder / tokenizer_folder)
        for path in sorted(each for each in (self.folder / tokenizer_folder).rglob("*") if each.is_file()):
            relative = path.relative_to(self.folder).as_posix()
            files[f"tokenizer-{relative.removeprefix(tokenizer_folder + '/')}"] = FileRecord(
                path=relative, size=path.stat().st_size, sha256=checksum(path)
            )
        sync(self.folder)
        record = TokenizerRecord(
            name=self._tokenizer.name,
            vocab_size=self._tokenizer.vocab_size,
            end_of_text=self._tokenizer.end_of_text,
            fingerprint=fingerprint,
            folder=tokenizer_folder,
            begin_of_text=begin_of(self._tokenizer),
        )
        Manifest(
            tokenizer=record,
            dtype=self._dtype.str,
            splits=self.counts(),
            files=files,
            request=self._request,
            problems=dict(self.problem_counts),
        ).write(self.folder)
        self._open.close()
        return TokenStore.open(self.folder)

    def _grow(self, role: str, suffix: str) -> GrowingFile:
        grown = GrowingFile(self.folder, role, suffix)
        self._open.callback(grown.abort)
        return grown


def some_at_a_time(ids: TokenIds | GrowingArray) -> Iterator[np.ndarray]:
    """The tokens of a text, in parts where there are many."""
    yield from ids.arrays() if isinstance(ids, GrowingArray) else (ids,)


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Validate an output folder: it must hold no store (unless ``overwrite``) and no foreign files.

    Raises:
        FileExistsError: With the cure.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"output must be a folder, but {folder} is a file: choose another name.")
    names = sorted(path.name for path in folder.iterdir())
    foreign = [name for name in names if name != MANIFEST_FILE and not _OURS.fullmatch(name)]
    if MANIFEST_FILE in names and not is_manifest(folder / MANIFEST_FILE):
        foreign.append(MANIFEST_FILE)
    if foreign:
        message = f"{folder} holds files of something else ({', '.join(foreign[:3])}): choose a new or empty folder."
        raise FileExistsError(message)
    if MANIFEST_FILE in names and not overwrite:
        message = f"{folder} already holds another token store: choose another output folder, or replace that store "
        raise FileExistsError(message + "with overwrite=True.")


def _remove_leftovers(folder: Path) -> None:
    """Remove files of ours that the manifest does not list, left by a killed run or by the store before."""
    keep: set[str] = set()
    if (folder / MANIFEST_FILE).exists():
        try:
            keep = {Path(file.path).parts[0] for file in Manifest.read(folder).files.values()}
        except (DamagedFileError, MismatchError):
            return  # the manifest cannot be read, so no file is known to be a leftover
    for path in folder.iterdir():
        if path.name not in keep and _OURS.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
