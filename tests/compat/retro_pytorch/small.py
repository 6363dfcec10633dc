"""Small models and folders of text for tests of RETRO-pytorch's names."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laws.families import enlarged
from retentive.compat.retro_pytorch import RETRO
from retentive.compat.retro_pytorch.retrieval import text_folder_to_chunks_

WORDS = [f"w{number}" for number in range(40)]
VOCAB = 104 + len(WORDS) + 3
SIZES: dict[str, Any] = {
    "num_tokens": VOCAB,
    "max_seq_len": 32,
    "enc_dim": 12,
    "enc_depth": 2,
    "dec_depth": 3,
    "dec_cross_attn_layers": (1, 3),
    "heads": 2,
    "dec_dim": 16,
    "dim_head": 8,
    "chunk_size": 8,
}


def text_folder(folder: Path, documents: int = 4, words: int = 30) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(documents):
        (folder / f"{number}.txt").write_text(" ".join(generator.choice(WORDS, words)))
    return folder


def paths(folder: Path) -> dict[str, Path]:
    names = {"chunks_memmap_path": "chunks", "seqs_memmap_path": "seq", "doc_ids_memmap_path": "doc_ids"}
    return {argument: folder / f"train.{name}.dat" for argument, name in names.items()}


def chunked(tmp_path: Path, **changes: Any) -> dict[str, int]:
    arguments: dict[str, Any] = {
        "chunk_size": 8,
        "seq_len": 32,
        "max_chunks": 100,
        "max_seqs": 20,
        **paths(tmp_path),
        **changes,
    }
    if "folder" not in changes:
        arguments["folder"] = text_folder(tmp_path / "texts")
    return text_folder_to_chunks_(**arguments)


def made(**changes: Any) -> RETRO:
    torch.manual_seed(0)
    return enlarged(RETRO(**{**SIZES, **changes}).double()).train()


def tokens(*shape: int) -> Tensor:
    return torch.randint(1, VOCAB, shape, generator=torch.Generator().manual_seed(1))
