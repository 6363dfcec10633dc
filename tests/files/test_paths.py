"""Paths through links."""

from pathlib import Path

import pytest

from retentive.files.paths import real_path


def test_links_are_followed_and_those_that_lead_nowhere_are_left(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert real_path(tmp_path / "link" / "new") == (tmp_path / "folder" / "new").resolve()
    assert real_path(tmp_path / "loop").name == "loop"
    with pytest.raises(OSError, match=r"loop|links"):
        (real_path(tmp_path / "loop") / "file").write_text("")
