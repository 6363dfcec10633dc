"""What is read of one file: the file itself, what a compressed file holds, or each member of an archive."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tarfile import HeaderError, ReadError
from typing import Any

from retentive.data.sources.documents import Problem
from retentive.data.sources.folders import SourceFile
from retentive.data.sources.sniffing import kind_of
from retentive.files import display_name

_SHORT = {".tgz": (".tar", ".gz"), ".tbz2": (".tar", ".bz2"), ".txz": (".tar", ".xz"), ".tzst": (".tar", ".zst")}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_MOST_EXPANSION = 200
"""Bytes that one byte of a compressed file may become; text becomes 3 to 10, at most some 50."""
_FREE_EXPANSION = 64 << 20
_DEEPEST = 3
"""Archives inside of archives, at most."""
_HEAD = 512
"""Bytes by which it is known what a file is."""
_BLOCK_BYTES = 8 << 20
_ZSTD_STEP = 512
"""Bytes of zstd that are unpacked at once: at most some 22 MB come of them."""


class BombError(OSError):
    """A compressed file holds far more than text would."""


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to read.

    Attributes:
        name: As in `Document`: the file, and the member for one of an archive.
        suffix: By which it is known how to read it, as ``.csv``; that of a compressed file without ``.gz``.
        opened: Its content, from the beginning.
        path: The file, if it is one by itself.
    """

    name: str
    suffix: str
    opened: io.BufferedReader
    path: Path | None = None


class _Counted(io.RawIOBase):
    """A file that tells how many bytes were read of it, and how many more may come out of it."""

    def __init__(self, opened: Any, size: int, on_bytes: Callable[[int], object]) -> None:
        self._opened, self._size, self._left, self._on_bytes = opened, size, size, on_bytes
        self.unpacked_bytes = 0

    @property
    def read_bytes(self) -> int:
        """Bytes of the file that were read, at most its size: archives read some of them again and again."""
        return self._size - self._left

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._opened.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._opened.seek(offset, whence)

    def tell(self) -> int:
        return self._opened.tell()

    def readinto(self, buffer: Any) -> int:
        content = self._opened.read(len(buffer))
        buffer[: len(content)] = content
        self.count(len(content))
        return len(content)

    def count(self, size: int | None = None) -> None:
        """Tell that bytes were read, each once; without a size, that all were."""
        more = self._left if size is None else min(size, self._left)
        self._left -= more
        if more:
            self._on_bytes(more)


class _Bounded(io.RawIOBase):
    """What comes out of a compressed file, which is refused once all of it together is more than text would be."""

    def __init__(self, opened: Any, source: _Counted) -> None:
        self._opened, self._source, self._written = opened, source, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._opened.read(len(buffer))
        except Exception as error:  # each library has its own
            raise OSError(f"is damaged ({error or type(error).__name__}): fetch or write it again") from error
        buffer[: len(content)] = content
        self._written += len(content)
        self._source.unpacked_bytes += len(content)
        if self._source.unpacked_bytes > _FREE_EXPANSION + _MOST_EXPANSION * self._source.read_bytes:
            self._source.unpacked_bytes -= self._written  # what is refused leaves room for the other members
            self._written = 0
            raise BombError(f"becomes over {_MOST_EXPANSION} times its size, as no text does: unpack it yourself")
        return len(content)


class _Unzstd(io.RawIOBase):
    """What one frame of zstd after the other holds; one that is cut is an error, which the library's reader hides."""

    def __init__(self, opened: Any, frame: Callable[[], Any]) -> None:
        self._opened, self._new_frame = opened, frame
        self._frame: Any = None
        self._made, self._rest = memoryview(b""), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._made:
            content = self._rest or self._opened.read(_ZSTD_STEP)
            if not content:
                if self._frame is not None:
                    raise EOFError("the file ends inside of a frame")
                return 0
            self._frame = self._frame or self._new_frame()
            self._made, self._rest = memoryview(self._frame.decompress(content)), b""
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        content, self._made = self._made[: len(buffer)], self._made[len(buffer) :]
        buffer[: len(content)] = content
        return len(content)


class _Header(tarfile.TarInfo):
    """The head of a member of a tar archive; a damaged one, or a missing end, is an error and not the end."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> "_Header":
        """Read the next one."""
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the end mark; the module does not document its name
                raise
            raise ReadError(f"after byte {tarfile.offset:,}: {error}") from error


def parts_of_file(file: SourceFile, *, limit: int, on_bytes: Callable[[int], object]) -> Iterator[Part | Problem]:
    """Open a file, what it holds compressed, or its members; each is to be read before the next one.

    Args:
        file: The file.
        limit: Bytes that an archive inside of an archive may have.
        on_bytes: Called with the number of bytes of the file that were read since its last call.
    """
    with file.path.open("rb") as opened:
        counted = _Counted(opened, file.size, on_bytes)
        try:
            yield from _opened(file.name, io.BufferedReader(counted), counted, limit, path=file.path)
        finally:
            counted.count()


def _opened(
    name: str, opened: Any, source: _Counted, limit: int, *, path: Path | None = None, depth: int = 0
) -> Iterator[Part | Problem]:
    """What has a name, or what it holds; a damaged archive gives what comes before the damage, and one problem."""
    kinds = _kinds(name)
    if kinds[-1] not in (*_COMPRESSED, ".tar", ".zip"):
        yield Part(name, kinds[-1], opened, path)
        return
    if depth > _DEEPEST:
        yield Problem(name=name, kind="unreadable", message=f"is an archive in {_DEEPEST} others: unpack it yourself")
        return
    if kinds[-1] in _COMPRESSED:
        opened, path = io.BufferedReader(_Bounded(_decompressed(opened, kinds[-1]), source)), None
        kinds = kinds[:-1] or [""]
    if kinds[-1] not in (".tar", ".zip"):
        yield Part(name, kinds[-1], opened)
        return
    number, kind = 0, None
    try:
        kind = kind_of(opened.peek(_HEAD)[:_HEAD])
        members = (
            _tar_members(name, opened, source)
            if kinds[-1] == ".tar"
            else _zip_members(name, opened, source, limit, path)
        )
        for member in members:
            number += 1
            if isinstance(member, Problem):
                yield member
            else:
                yield from _opened(member.name, member.opened, source, limit, depth=depth + 1)
    except BombError as error:
        yield Problem(name=name, kind="too_large", message=str(error))
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        found = f"is {kind}, or " if number == 0 and kind not in (None, "binary data") else ""
        message = f"{found}is damaged or no {kinds[-1][1:]} archive ({error or type(error).__name__})"
        yield Problem(name=name, kind="unreadable", message=f"{message}: fetch or write it again")
        return
    if number == 0:
        yield Problem(name=name, kind="empty", message="is an archive without files")


def _kinds(name: str) -> list[str]:
    """The suffixes of a name that say how it is read, in lower case; short ones such as ``.tgz`` are written out."""
    found = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    return [*found[:-1], *_SHORT.get(found[-1], (found[-1],))] if found else [""]


def _decompressed(opened: Any, suffix: str) -> Any:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=opened)
    if suffix == ".bz2":
        return bz2.BZ2File(opened)
    if suffix == ".xz":
        return lzma.LZMAFile(opened)
    try:
        import zstandard
    except ImportError as error:
        raise ImportError("reading .zst files needs the package zstandard: pip install 'retentive[readers]'") from error
    return _Unzstd(opened, lambda: zstandard.ZstdDecompressor().decompressobj())


def read_up_to(opened: io.BufferedIOBase, limit: int) -> bytes:
    """What a file holds, or a little more than ``limit`` bytes of it.

    In blocks: a read of the limit's size would take that memory for the smallest file.
    """
    found = io.BytesIO()
    while found.tell() <= limit and (block := opened.read(_BLOCK_BYTES)):
        found.write(block)
    return found.getvalue()


def _tar_members(archive: str, opened: Any, source: _Counted) -> Iterator[Part | Problem]:
    with tarfile.open(fileobj=opened, mode="r|", tarinfo=_Header) as tar:
        for entry in tar:
            name = f"{archive}/{display_name(entry.name.removeprefix('./'))}"
            if entry.isdir() or _is_hidden(entry.name):
                continue
            content = tar.extractfile(entry) if entry.isreg() else None
            if content is None:
                yield Problem(name=name, kind="unreadable", message="is not a regular file")
            else:
                yield Part(name, "", io.BufferedReader(_Bounded(content, source)))


def _zip_members(
    archive: str, opened: Any, source: _Counted, limit: int, path: Path | None
) -> Iterator[Part | Problem]:
    if path is None:  # the list of members is at the end, so all of it must be at hand
        content = read_up_to(opened, limit)
        if len(content) > limit:
            message = f"has more than {limit:,} bytes (max_document_bytes): unpack it yourself"
            yield Problem(name=archive, kind="too_large", message=message)
            return
        opened = io.BytesIO(content)
    with zipfile.ZipFile(opened) as zipped:
        for entry in zipped.infolist():
            name = f"{archive}/{display_name(entry.filename)}"
            if entry.is_dir() or _is_hidden(entry.filename):
                continue
            if stat.S_ISLNK(entry.external_attr >> 16):
                yield Problem(name=name, kind="unreadable", message="is not a regular file")
                continue
            try:
                content = zipped.open(entry)
            except (NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:  # a method unknown, a password
                yield Problem(name=name, kind="unreadable", message=f"cannot be unpacked ({error}): unpack it yourself")
                continue
            yield Part(name, "", io.BufferedReader(_Bounded(content, source)))


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") and part not in (".", "..") for part in parts) or "__MACOSX" in parts
