"""Losses of chunks that are measured once and kept on disk."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retentive.evaluation.measures.chunk_scores import ChunkScores
from retentive.files import explain_odd_content, read_json, write_atomically


@dataclass(frozen=True, slots=True)
class Measured:
    """The loss of chunks, and the seconds of processor time that it took to measure it."""

    scores: ChunkScores
    seconds: float


def measured_once(folder: Path, label: str, facts: Mapping[str, Any], measure: Callable[[], ChunkScores]) -> Measured:
    """The scores of one condition: those on disk, if they were measured under the same facts.

    Args:
        folder: Where they are kept.
        label: Names the condition, and its file.
        facts: All that decides the scores.
        measure: Measures them.
    """
    path = folder / f"{_file_name(label)}.json"
    told = json.loads(json.dumps({**facts, "label": label}, default=str))
    if path.exists():
        cure = "delete it: the chunks are then scored again"
        content = read_json(path, cure=cure)
        with explain_odd_content(path, cure=cure):
            if content["facts"] == told:
                nats, num_bytes = np.array(content["nats"], np.float64), np.array(content["num_bytes"], np.int64)
                return Measured(ChunkScores(nats=nats, num_bytes=num_bytes), float(content.get("seconds", 0.0)))
    begin = time.process_time()
    found = measure()
    seconds = time.process_time() - begin
    content = {"facts": told, "seconds": seconds, "nats": found.nats.tolist(), "num_bytes": found.num_bytes.tolist()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content).encode())
    return Measured(found, seconds)


def _file_name(label: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in label.lower())
