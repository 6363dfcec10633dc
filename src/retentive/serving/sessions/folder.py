"""States in a folder: one file each, and an index that no crash tears."""

import errno
import sqlite3
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from retentive.errors import DamagedFileError, MismatchError
from retentive.files import is_temporary, sync, write_atomically
from retentive.serving.sessions.record import WORD_SECONDS, StateRecord, record_or_none

INDEX = "index.sqlite"
FILES = "states"
FORMAT_VERSION = 1
ABANDONED_SECONDS = 3600.0
"""A file without a record is left over from a kill when it is this old: until then, its writer may be at work."""

_PROBE_BYTES = 4096
_TABLES = """
CREATE TABLE IF NOT EXISTS states (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL NOT NULL, size INTEGER NOT NULL,
    record TEXT NOT NULL, turn TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_owner ON states (owner, created);
CREATE TABLE IF NOT EXISTS endings (owner TEXT, id TEXT, asked REAL, PRIMARY KEY (owner, id)) WITHOUT ROWID;
"""


class StateFolder:
    """Several processes may use one folder. A file is written whole and synced before its record is.

    Args:
        folder: Made if it is not there.

    Raises:
        DamagedFileError: If its index is none.
        MismatchError: If another version of this library wrote it.
        OSError: If it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._files = folder / FILES
        self._path = folder / INDEX
        # One connection a process, behind a lock: each statement takes well under a millisecond.
        self._lock = threading.Lock()
        try:
            self._files.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._index = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
            self._prepare()
        except (OSError, sqlite3.OperationalError) as error:
            number, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (errno.EIO, error)
            said = f"states cannot be stored there ({reason}); give another folder to sessions"
            raise OSError(number, said, str(folder)) from error
        except sqlite3.DatabaseError as error:
            raise DamagedFileError(
                f"{self._path} is no index of stored states ({error}): give another folder to sessions."
            ) from error
        sync(folder)
        self._remove_abandoned()

    def _prepare(self) -> None:
        """Make the tables of the index, where they are not there."""
        self._index.execute("PRAGMA journal_mode = WAL")
        self._index.execute("PRAGMA synchronous = FULL")
        written = self._index.execute("PRAGMA user_version").fetchone()[0]
        if written not in (0, FORMAT_VERSION):
            raise MismatchError(
                f"{self._path} has the format version {written}, but this retentive reads {FORMAT_VERSION}; give "
                "another folder to sessions."
            )
        with self._writing() as index:
            for statement in _TABLES.split(";"):
                index.execute(statement)
            index.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def put(self, record: StateRecord, content: bytes, most: int) -> bool:
        """Store a state; False, and nothing is stored, where the owner has ``most`` already."""
        path = self._file(record.id)
        write_atomically(path, content)
        has_room = False
        try:
            with self._writing() as index:
                if self._count(record.owner) < most:
                    row = (record.id, record.owner, record.created, record.size, *record.to_json())
                    index.execute("INSERT INTO states VALUES (?, ?, ?, ?, ?, ?)", row)
                    has_room = True
        except BaseException:  # a full disk gets no fuller by states that nobody can ask for
            path.unlink(missing_ok=True)
            raise
        if not has_room:
            path.unlink(missing_ok=True)
        return has_room

    def record(self, owner: str, identifier: str) -> StateRecord | None:
        """The record of one of the owner's states."""
        with self._lock:
            found = self._index.execute(
                "SELECT record, turn FROM states WHERE id = ? AND owner = ?", (identifier, owner)
            ).fetchone()
        return None if found is None else StateRecord.from_json(identifier, *found)

    def content(self, record: StateRecord) -> bytes | None:
        """The bytes of a state; None where it was deleted meanwhile."""
        try:
            content = self._file(record.id).read_bytes()
        except FileNotFoundError:
            if self.record(record.owner, record.id) is None:
                return None
            content = b""
        return record.check(content)

    def records(self, owner: str, *, newest: int, before: float | None = None) -> list[StateRecord]:
        """The owner's newest records without their turns, the newest first."""
        with self._lock:
            rows = self._index.execute(
                "SELECT id, record FROM states WHERE owner = ? AND created < ? ORDER BY created DESC, id",
                (owner, float("inf") if before is None else before),
            )
            whole = (record for row in rows if (record := record_or_none(*row)) is not None)
            return list(islice(whole, newest))

    def has_room(self, owner: str, most: int) -> bool:
        """Whether the owner has fewer states."""
        with self._lock:
            return self._count(owner) < most

    def _count(self, owner: str) -> int:
        """Number of the owner's states; the lock is held."""
        return self._index.execute("SELECT count(*) FROM states WHERE owner = ?", (owner,)).fetchone()[0]

    def delete(self, owner: str, identifier: str) -> bool:
        """Delete one of the owner's states: the record first, so that none is without its file."""
        try:
            gone = self._delete_record(owner, identifier)
        except sqlite3.OperationalError as error:
            if "full" not in str(error) or self.record(owner, identifier) is None:
                raise
            # A full disk does not take what the index has to write: the file makes room for it.
            self._file(identifier).unlink(missing_ok=True)
            gone = self._delete_record(owner, identifier)
        if gone:
            self._file(identifier).unlink(missing_ok=True)
        return gone

    def _delete_record(self, owner: str, identifier: str) -> bool:
        with self._writing() as index:
            return index.execute("DELETE FROM states WHERE id = ? AND owner = ?", (identifier, owner)).rowcount > 0

    def ask_to_end(self, owner: str, identifier: str) -> None:
        """Leave word for whoever writes an answer that it shall end."""
        now = time.time()
        with self._writing() as index:
            index.execute("DELETE FROM endings WHERE asked < ?", (now - WORD_SECONDS,))
            index.execute("INSERT OR REPLACE INTO endings VALUES (?, ?, ?)", (owner, identifier, now))

    def is_asked_to_end(self, owner: str, identifier: str) -> bool:
        """Whether such a word is there, and nobody has taken it."""
        with self._lock:
            found = self._index.execute("SELECT 1 FROM endings WHERE owner = ? AND id = ?", (owner, identifier))
            return found.fetchone() is not None

    def take_asked(self, answers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Take the words that are there for some answers; return those answers."""
        asked = [answer for answer in answers if self.is_asked_to_end(*answer)]
        if not asked:
            return []  # nothing is written, then
        with self._writing() as index:
            remove = "DELETE FROM endings WHERE owner = ? AND id = ?"
            return [answer for answer in asked if index.execute(remove, answer).rowcount > 0]

    def size(self) -> tuple[int, int]:
        """Number of all states, and their bytes."""
        with self._lock:
            count, size = self._index.execute("SELECT count(*), coalesce(sum(size), 0) FROM states").fetchone()
        return count, size

    def check(self) -> None:
        """Raise an error if states cannot be stored now."""
        with self._writing() as index:
            index.execute("SELECT 1")
        with tempfile.TemporaryFile(dir=self._files) as file:
            file.write(bytes(_PROBE_BYTES))

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._index.close()

    def _file(self, identifier: str) -> Path:
        """The file of a state that the index has: its id was made by us, and is no path."""
        return self._files / f"{identifier}.safetensors"

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """A transaction: all of it is on disk afterwards, or nothing."""
        with self._lock:
            self._index.execute("BEGIN IMMEDIATE")
            try:
                yield self._index
                self._index.execute("COMMIT")
            except BaseException:
                if self._index.in_transaction:  # a full disk may end it, or leave it open
                    self._index.execute("ROLLBACK")
                raise

    def _remove_abandoned(self) -> None:
        """Remove files that a killed process left without a record: no answer was given that names them."""
        oldest = time.time() - ABANDONED_SECONDS
        with self._lock:
            known = {row[0] for row in self._index.execute("SELECT id FROM states")}
        for path in self._files.iterdir():
            named = path.suffix == ".safetensors" and path.stem in known
            if not named and (path.suffix in (".safetensors", ".tmp") or is_temporary(path)):
                # Another process may rename or remove it at this moment.
                try:
                    if path.stat().st_mtime < oldest:
                        path.unlink()
                except FileNotFoundError:
                    continue
