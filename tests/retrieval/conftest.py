import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def _folder_in_memory() -> Iterator[Path | None]:
    """A folder whose fsync costs nothing: these tests bring thousands of small files safely to disk."""
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 1 << 30):
        yield None
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="retentive-tests-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def tmp_path_factory(request: pytest.FixtureRequest, _folder_in_memory: Path | None) -> pytest.TempPathFactory:
    """pytest's own, but in memory where that is possible."""
    own = request.config._tmp_path_factory  # pyright: ignore[reportAttributeAccessIssue]
    if _folder_in_memory is None:
        return own
    return pytest.TempPathFactory(
        given_basetemp=_folder_in_memory / "t",
        retention_count=0,
        retention_policy="none",
        trace=own._trace,
        _ispytest=True,
    )
