"""Folders of a store that are immutable like blocks and hold a list of the checksums of their files."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from retentive.errors import DamagedFileError
from retentive.files import checksum, folder_written_atomically
from retentive.retrieval.manifest import FolderRecord

MEND = "retentive index reindex (Datastore.reindex) makes it again, without a source"
SEAL = "checksums"
"""File with the checksums, as ``sha256sum`` writes them; its first line names the folder."""


@contextmanager
def sealed_folder(folder: Path, kind: str, key: str) -> Generator[Path]:
    """Yield an empty folder to fill; it gets its checksums and its name when the ``with`` block succeeds.

    Args:
        folder: Folder of the store.
        kind: Kind of its content; also the name of its parent folder.
        key: Its name.
    """
    with folder_written_atomically(folder / kind / key) as temporary:
        yield temporary
        lines = [f"{checksum(path)}  {path.name}\n" for path in sorted(temporary.iterdir())]
        (temporary / SEAL).write_text("".join([_first_line(kind, key), *lines]))


def folder_record(
    folder: Path, kind: str, key: str, *, first_block: int = 0, num_blocks: int = 0
) -> FolderRecord | None:
    """The record of a finished folder, or ``None`` if it is missing or damaged; every byte is read."""
    place = folder / kind / key
    files = _stated(place, kind, key)
    if files is None or {path.name for path in place.iterdir()} != {SEAL, *files}:
        return None
    files[SEAL] = checksum(place / SEAL)
    record = FolderRecord(kind=kind, key=key, files=files, first_block=first_block, num_blocks=num_blocks)
    return None if folder_problems(folder, record) else record


def folder_problems(folder: Path, record: FolderRecord) -> list[tuple[Path, str]]:
    """The damaged files of a folder, each with its problem."""
    place = folder / record.kind / record.key
    if not place.is_dir():
        return [(place, "is missing")]
    problems: list[tuple[Path, str]] = []
    for name, stated in record.files.items():
        try:
            if checksum(place / name) != stated:
                problems.append((place / name, "does not have the content that its checksum was taken of"))
        except FileNotFoundError:
            problems.append((place / name, "is missing"))
        except OSError as error:
            problems.append((place / name, f"cannot be read ({error.strerror})"))
    return problems


def check_folder(folder: Path, record: FolderRecord, *, cure: str = MEND) -> None:
    """Read every file of a folder and compare it with its checksum.

    Raises:
        DamagedFileError: If one is damaged; it is named, with the cure.
    """
    for path, reason in folder_problems(folder, record):
        raise DamagedFileError(f"{path} {reason}: {cure}.")


def _first_line(kind: str, key: str) -> str:
    return f"# {kind} {key}\n"


def _stated(place: Path, kind: str, key: str) -> dict[str, str] | None:
    try:
        first, *lines = (place / SEAL).read_text("utf-8").splitlines(keepends=True)
    except (OSError, ValueError):
        return None
    parts = [line.rstrip("\n").partition("  ") for line in lines]
    return {name: digest for digest, _, name in parts} if first == _first_line(kind, key) else None
