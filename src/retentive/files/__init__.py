"""Files that are whole or absent, locks and checksums; progress bars are in `retentive.files.progress`."""

from retentive.files.writing import (
    TEMPORARY_SUFFIX,
    FileRecord,
    GrowingFile,
    checksum,
    display_name,
    explain_full_disk,
    fill_atomically,
    only_writer,
    sync,
    write_atomically,
)

__all__ = [
    "TEMPORARY_SUFFIX",
    "FileRecord",
    "GrowingFile",
    "checksum",
    "display_name",
    "explain_full_disk",
    "fill_atomically",
    "only_writer",
    "sync",
    "write_atomically",
]
