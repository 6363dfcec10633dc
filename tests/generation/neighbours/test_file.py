"""A file of neighbours holds one a line, and only line ends separate them."""

from pathlib import Path

import pytest
import torch

from retentive.generation.neighbours.file import read_neighbours
from retentive.text.byte_tokenizer import ByteTokenizer


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "marked"])
def test_only_line_ends_separate_neighbours(tmp_path: Path, end: str, mark: str):
    lines = ["one\fpage\vand\x1cmore", "two\u2028lines\u2029 of\x85a text", "three\rtimes"]
    file = tmp_path / "own.txt"
    file.write_bytes((mark + end.join([lines[0], "", *lines[1:], ""])).encode())
    found = read_neighbours(file, ByteTokenizer(), 4)(torch.zeros(1, 4, dtype=torch.long))[0]
    assert [bytes(row[row >= 0].tolist()).decode() for row in found] == lines


def test_a_file_without_neighbours_is_named(tmp_path: Path):
    file = tmp_path / "own.txt"
    with pytest.raises(ValueError, match=f"neighbours must be a file of text, .* but {file} is no file: write one"):
        read_neighbours(file, ByteTokenizer(), 4)
    file.write_bytes(b" \n\n")
    with pytest.raises(ValueError, match=f"at least one line of text, but {file} has none"):
        read_neighbours(file, ByteTokenizer(), 4)
    file.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=f"file of UTF-8 text, but {file} is not: convert it"):
        read_neighbours(file, ByteTokenizer(), 4)
