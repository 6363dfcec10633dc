"""Rerankers: models that read a query beside a passage, and judge the first answers of the indexes again."""

from pathlib import Path

from retentive.files import read_json
from retentive.retrieval.encoders.dense import COPY_MODEL, DenseEncoder
from retentive.retrieval.rerankers.cross_encoder import CrossEncoder, is_classifier
from retentive.retrieval.rerankers.late_interaction import LateInteraction, TokenVectorEncoder
from retentive.retrieval.rerankers.protocol import Reranker

__all__ = ["CrossEncoder", "LateInteraction", "Reranker", "TokenVectorEncoder", "open_reranker"]


def open_reranker(folder: Path | str) -> Reranker:
    """The reranker of a model's folder: a cross-encoder where it classifies texts, else late interaction.

    Raises:
        FileNotFoundError: If there is no such folder, or it lacks a file.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"reranker must be the folder of a model, with config.json, but is {str(folder)!r}.")
    if is_classifier(read_json(folder / "config.json", cure=COPY_MODEL)):
        return CrossEncoder(folder)
    return LateInteraction(DenseEncoder(folder))
