"""The disk tier of a prefix cache: a file for each state, whole or refused."""

import base64
import binascii
import hashlib
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from retentive.checkpoints.states import load_state, read_state_metadata, read_state_origin, write_state
from retentive.errors import RetentiveError
from retentive.files import only_writer
from retentive.files.names import TEMPORARY_SUFFIX
from retentive.generation.prefixes.entry import Key, PrefixEntry
from retentive.models.protocol import LanguageModel
from retentive.state import ModelState

_LOG = logging.getLogger(__name__)
_PATTERN = "prefix-*.safetensors"
_OURS = re.compile(r"prefix-[0-9a-f]{40}\.safetensors")
"""Names of our files: whatever else stands in the folder is somebody else's, and stays."""


class PrefixFiles:
    """States in a folder that this process alone writes to. Those that were used least recently go first."""

    def __init__(self, folder: Path, budget: int) -> None:
        """Lock the folder.

        Args:
            folder: It is made if it is not there.
            budget: Bytes that the files may take.

        Raises:
            BlockingIOError: If another process has it open.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._budget = folder, budget
        self._open = ExitStack()
        self._open.enter_context(only_writer(folder))
        self.entries: OrderedDict[Key, PrefixEntry] = OrderedDict()
        self._sizes: dict[Key, int] = {}

    @property
    def in_use(self) -> int:
        """Bytes that the files took when they were written or found."""
        return sum(self._sizes.values())

    def found(self) -> Iterator[PrefixEntry]:
        """The states that earlier processes left, within the budget; damaged files are removed, with a warning."""
        for half in self._folder.glob(f"{_PATTERN}{TEMPORARY_SUFFIX}"):  # of a process that was killed
            if _OURS.fullmatch(half.name.removesuffix(TEMPORARY_SUFFIX)):
                _remove(half)
        ours = [path for path in self._folder.glob(_PATTERN) if _OURS.fullmatch(path.name) and path.is_file()]
        for path in sorted(ours, key=lambda path: path.stat().st_mtime):
            try:
                self._add(_described(path), path)
            except RetentiveError as error:
                _forget(path, error)
            except OSError as error:  # it may be whole, and another time be read
                _LOG.warning("a state of a prefix is left out: %s", error)
        self._shrink()
        yield from list(self.entries.values())

    def write(self, entry: PrefixEntry) -> list[PrefixEntry]:
        """Write a state, unless its file is there; return the entries that are on disk no more, or never were."""
        if entry.file is None:
            assert entry.state is not None
            path = self._folder / f"prefix-{_name(entry)}.safetensors"
            tokens = base64.b64encode(entry.tokens.astype("<i4").tobytes()).decode()
            try:
                write_state(entry.state, path, entry.origin, {"root": entry.root, "tokens": tokens})
            except OSError as error:
                _LOG.warning("a state could not be kept: %s", error)
                return [entry]
            self._add(entry, path)
        # What is larger than all that may be here goes, and not the others before it.
        self.entries.move_to_end(entry.key, last=self._sizes[entry.key] <= self._budget)
        return self._shrink()

    def _shrink(self) -> list[PrefixEntry]:
        """Drop what was used longest ago until the rest is within the budget."""
        gone: list[PrefixEntry] = []
        while self.in_use > self._budget:
            gone.append(self._drop(next(iter(self.entries.values()))))
        return gone

    def read(self, entry: PrefixEntry, model: LanguageModel) -> ModelState | None:
        """Read a state; None if its file is gone or damaged, which then is forgotten."""
        path = entry.file
        assert path is not None
        try:
            state = load_state(path, model, "cpu")
        except (RetentiveError, OSError, ValueError) as error:
            _LOG.warning("a state of a prefix is left out and will be made again: %s", error)
            self._drop(entry)
            return None
        with suppress(OSError):  # a disk that takes no more writes gives what it has
            os.utime(path)  # the order in which the next process drops them
        self.entries.move_to_end(entry.key)
        assert isinstance(state, ModelState)
        return state

    def clear(self) -> None:
        """Remove all files."""
        while self.entries:
            self._drop(next(iter(self.entries.values())))

    def close(self) -> None:
        """Let go of the folder."""
        self._open.close()

    def _add(self, entry: PrefixEntry, path: Path) -> None:
        entry.file = path
        self.entries[entry.key] = entry
        self._sizes[entry.key] = path.stat().st_size

    def _drop(self, entry: PrefixEntry) -> PrefixEntry:
        path, entry.file = entry.file, None
        del self.entries[entry.key], self._sizes[entry.key]
        assert path is not None
        _remove(path)
        return entry


def _described(path: Path) -> PrefixEntry:
    """What a file says of its state, which is not read yet."""
    about = read_state_metadata(path)
    try:
        tokens = np.frombuffer(base64.b64decode(about["tokens"], validate=True), dtype="<i4").astype(np.int32)
        entry = PrefixEntry(about["root"], tokens, read_state_origin(path))
    except (KeyError, ValueError, binascii.Error) as error:
        raise RetentiveError(f"{path} does not say which tokens it has read ({error!r})") from error
    if path.stem != f"prefix-{_name(entry)}":
        raise RetentiveError(f"{path} says that it has read other tokens than its name does")
    return entry


def _name(entry: PrefixEntry) -> str:
    return hashlib.sha256(entry.root.encode() + b"\n" + entry.tokens.astype("<i4").tobytes()).hexdigest()[:40]


def _forget(path: Path, error: Exception) -> None:
    _LOG.warning("a state of a prefix is left out and will be made again: %s", error)
    _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _LOG.warning("a state of a prefix stays on disk, where it is of no use: %s", error)
