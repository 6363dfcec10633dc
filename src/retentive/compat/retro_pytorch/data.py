"""``retro_pytorch.data``: sequences and their neighbours from the package's ``.dat`` files, which are only read."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int32
from torch import Tensor
from torch.utils.data import Dataset

from retentive.errors import DamagedFileError

EOS_ID = 102
PAD_ID = 0

Rows = Int32[np.ndarray, "rows columns"]


def open_rows(path: Path | str, rows: int, columns: int) -> Rows:
    """Map the first rows of a file of int32 numbers for reading; the file may be longer, with reserved space.

    Raises:
        FileNotFoundError: If it is missing.
        DamagedFileError: If it has fewer rows.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; text_folder_to_chunks_ and chunks_to_precalculated_knn_ make it.")
    found = path.stat().st_size // (4 * columns)
    if found < rows:
        raise DamagedFileError(
            f"{path} must hold {rows} rows of {columns} numbers, but holds {found}; was it made with other sizes? Make "
            "it again."
        )
    return np.memmap(path, dtype=np.int32, mode="r", shape=(rows, columns))


def knn_to_retrieved_chunks(
    knns: Any,
    chunks_memmap: Any,
    *,
    add_continuations: bool,
    num_chunks: int,
    pad_id: int = PAD_ID,
    eos_id: int = EOS_ID,
) -> Any:
    """Token ids of neighbours, each with the chunk that follows it in its document; ``pad_id`` fills empty places.

    Args:
        knns: Numbers of chunks, -1 where there is no neighbour.
        chunks_memmap: Chunks, each with the first token of the next.
        add_continuations: Whether to add the chunk that follows.
        num_chunks: Number of chunks in the file.
        pad_id: Id of padding.
        eos_id: Id that ends a document.
    """
    numbers = np.asarray(knns)
    missing = (numbers < 0)[..., None]
    chunks = np.asarray(chunks_memmap[np.maximum(numbers, 0)])[..., :-1]
    parts = [chunks]
    if add_continuations:
        following = np.minimum(numbers + 1, num_chunks - 1)
        ended = (chunks == eos_id).any(-1, keepdims=True) | (numbers + 1 >= num_chunks)[..., None]
        parts.append(np.where(ended, pad_id, np.asarray(chunks_memmap[np.maximum(following, 0)])[..., :-1]))
    return np.where(missing, pad_id, np.concatenate(parts, -1))


class RETRODataset(Dataset[tuple[Tensor, Tensor]]):
    """Sequences of ``seq_len + 1`` tokens, and the neighbours of their chunks."""

    def __init__(
        self,
        *,
        num_chunks: int,
        chunk_size: int,
        seq_len: int,
        num_sequences: int,
        num_neighbors: int,
        chunk_memmap_path: Path | str,
        chunk_nn_memmap_path: Path | str,
        seq_memmap_path: Path | str,
        eos_id: int = EOS_ID,
        pad_id: int = PAD_ID,
        add_continuations: bool = True,
    ) -> None:
        """Open the files.

        Raises:
            FileNotFoundError: If one is missing.
            DamagedFileError: If one is shorter than the numbers say.
            ValueError: If sequences are not made of whole chunks.
        """
        if seq_len % chunk_size:
            raise ValueError(f"seq_len must be a multiple of chunk_size, but {seq_len} / {chunk_size} is not whole.")
        self.num_chunks, self.num_sequences = num_chunks, num_sequences
        self.seq_num_chunks = seq_len // chunk_size
        self.eos_id, self.pad_id, self.add_continuations = eos_id, int(pad_id), add_continuations
        self._chunks = open_rows(chunk_memmap_path, num_chunks, chunk_size + 1)
        self._neighbours = open_rows(chunk_nn_memmap_path, num_chunks, num_neighbors)
        self._sequences = open_rows(seq_memmap_path, num_sequences, 1)

    def __len__(self) -> int:
        """Number of sequences."""
        return self.num_sequences

    def __getitem__(self, ind: int) -> tuple[Int[Tensor, "tokens"], Int[Tensor, "chunks neighbours length"]]:
        """One sequence, cut at the end of its document, and the neighbours of its chunks; `pad_id` after the end."""
        begin = int(self._sequences[ind, 0])
        there = slice(begin, min(begin + self.seq_num_chunks, self.num_chunks))
        chunks = self._filled(self._chunks[there], self.pad_id)
        tokens = np.concatenate((chunks[:, :-1].reshape(-1), chunks[-1:, -1]))
        # Count the ends before each token: tokens after an end belong to another document, or to none.
        ends = np.cumsum(tokens == self.eos_id)
        tokens = np.where(np.concatenate(([0], ends[:-1])) > 0, self.pad_id, tokens)
        retrieved = knn_to_retrieved_chunks(
            self._filled(self._neighbours[there], -1),
            self._chunks,
            add_continuations=self.add_continuations,
            num_chunks=self.num_chunks,
            pad_id=self.pad_id,
            eos_id=self.eos_id,
        )
        return torch.from_numpy(tokens).long(), torch.from_numpy(retrieved).long()

    def _filled(self, rows: Any, value: int) -> Any:
        lacking = self.seq_num_chunks - len(rows)
        return np.pad(np.asarray(rows), ((0, lacking), (0, 0)), constant_values=value)
