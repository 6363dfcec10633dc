"""Sequences with the neighbours of their chunks, read from RETRO-pytorch's files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retentive.compat.retro_pytorch import RETRODataset
from retentive.errors import DamagedFileError


def save(path: Path, rows: Any) -> Path:
    np.asarray(rows, dtype=np.int32).tofile(path)
    return path


def dataset(tmp_path: Path, chunks: Any, neighbours: Any, begins: Any, **changes: Any) -> RETRODataset:
    arguments: dict[str, Any] = {
        "num_sequences": len(begins),
        "num_chunks": len(chunks),
        "num_neighbors": len(neighbours[0]),
        "chunk_size": 4,
        "seq_len": 12,
        "chunk_memmap_path": save(tmp_path / "chunks.dat", chunks),
        "chunk_nn_memmap_path": save(tmp_path / "knn.dat", neighbours),
        "seq_memmap_path": save(tmp_path / "seq.dat", begins),
        **changes,
    }
    return RETRODataset(**arguments)


CHUNKS = [[11, 12, 13, 14, 15], [15, 16, 102, 0, 0], [21, 22, 23, 24, 102], [102, 0, 0, 0, 0]]


def test_a_sequence_is_one_document_with_the_neighbours_of_its_chunks(tmp_path: Path):
    data = dataset(tmp_path, CHUNKS, [[2], [3], [0], [-1]], [0, 2])
    assert len(data) == 2
    seq, retrieved = data[0]
    assert seq.tolist() == [11, 12, 13, 14, 15, 16, 102, 0, 0, 0, 0, 0, 0]
    # The document of chunk 2 goes on for one more token, its end, though that is the extra token of chunk 2.
    assert retrieved[:, 0].tolist() == [
        [21, 22, 23, 24, 102, 0, 0, 0],
        [102, 0, 0, 0, 0, 0, 0, 0],
        [11, 12, 13, 14, 15, 16, 102, 0],
    ]
    seq, retrieved = data[1]  # its last chunk is beyond the last one of all
    assert seq.tolist() == [21, 22, 23, 24, 102, 0, 0, 0, 0, 0, 0, 0, 0]
    assert retrieved[1:].abs().sum() == 0
    short = dataset(tmp_path, CHUNKS, [[2], [3], [0], [-1]], [0, 2], add_continuations=False)
    assert short[0][1].shape == (3, 1, 4)


def test_files_are_only_read(tmp_path: Path):
    data = dataset(tmp_path, CHUNKS, [[2], [3], [0], [-1]], [0, 2])
    files = sorted(tmp_path.glob("*.dat"))
    before = [path.read_bytes() for path in files]
    for path in files:
        path.chmod(0o444)
    _ = data[0], data[1]
    assert [path.read_bytes() for path in files] == before


def test_files_of_other_sizes_are_named(tmp_path: Path):
    with pytest.raises(DamagedFileError, match=r"knn.dat must hold 4 rows of 3 numbers, but holds 1"):
        dataset(tmp_path, CHUNKS, [[2], [3], [0], [-1]], [0, 2], num_neighbors=3)
    with pytest.raises(FileNotFoundError, match="text_folder_to_chunks_ and chunks_to_precalculated_knn_ make it"):
        dataset(tmp_path, CHUNKS, [[2], [3], [0], [-1]], [0, 2], chunk_memmap_path=tmp_path / "none.dat")
