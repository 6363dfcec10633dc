"""Files and folders that are whole or absent, locks, checksums and checked JSON.

Progress bars stand in `retentive.files.progress`, which needs tqdm.
"""

from retentive.files.checksums import FileRecord, checksum
from retentive.files.folders import folder_with_content, folder_written_atomically, new_folder, remove
from retentive.files.json_files import (
    canonical_json,
    check_version,
    explain_odd_content,
    json_checksum,
    parse_json,
    read_checked_json,
    read_json,
    with_checksum,
    without_checksum,
    write_json,
)
from retentive.files.locks import has_writer, only_writer
from retentive.files.names import TEMPORARY_SUFFIX, display_name, is_temporary, temporary_name
from retentive.files.writing import (
    GrowingFile,
    explain_full_disk,
    fill_atomically,
    full_disk,
    is_full_disk,
    sync,
    write_atomically,
)

__all__ = [
    "TEMPORARY_SUFFIX",
    "FileRecord",
    "GrowingFile",
    "canonical_json",
    "check_version",
    "checksum",
    "display_name",
    "explain_full_disk",
    "explain_odd_content",
    "fill_atomically",
    "folder_with_content",
    "folder_written_atomically",
    "full_disk",
    "has_writer",
    "is_full_disk",
    "is_temporary",
    "json_checksum",
    "new_folder",
    "only_writer",
    "parse_json",
    "read_checked_json",
    "read_json",
    "remove",
    "sync",
    "temporary_name",
    "with_checksum",
    "without_checksum",
    "write_atomically",
    "write_json",
]
