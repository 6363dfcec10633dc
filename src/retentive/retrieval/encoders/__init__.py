"""Encoders: what chunks and queries are compared by."""

from pathlib import Path
from typing import Any

from retentive.retrieval.encoders.dense import DenseEncoder
from retentive.retrieval.encoders.hybrid import HybridEncoder
from retentive.retrieval.encoders.lexical import LexicalEncoder
from retentive.retrieval.encoders.protocol import VectorEncoder

Encoder = LexicalEncoder | VectorEncoder | HybridEncoder
"""Words, vectors, or both."""

__all__ = ["DenseEncoder", "Encoder", "HybridEncoder", "LexicalEncoder", "VectorEncoder", "make_encoder"]


def make_encoder(name: str, model: str | Path | None = None, **options: Any) -> Encoder:
    """Make an encoder by name.

    Args:
        name: ``lexical``, ``dense`` or ``hybrid``.
        model: Folder or hub id of the model; needed by all but ``lexical``.
        options: Arguments of `DenseEncoder`.

    Raises:
        ValueError: If there is no such encoder, or if it lacks its model.
    """
    if name not in ("lexical", "dense", "hybrid"):
        raise ValueError(f"encoder must be one of lexical, dense, hybrid, but is {name!r}.")
    if name == "lexical":
        if model is not None:
            raise ValueError(f"encoder lexical has no model, but model is {str(model)!r}: take encoder=dense.")
        return LexicalEncoder()
    if model is None:
        raise ValueError(f"encoder {name} needs model=, a folder or a hub id such as bert-base-cased.")
    dense = DenseEncoder(model, **options)
    return dense if name == "dense" else HybridEncoder(dense)


def encoder_from_settings(settings: dict[str, Any]) -> Encoder | None:
    """Make the encoder that a manifest tells of; ``None`` for one that only its owner can make."""
    kind = settings.get("kind")
    if kind == "lexical":
        return LexicalEncoder()
    if kind == "dense":
        return DenseEncoder(**{name: value for name, value in settings.items() if name != "kind"})
    if kind == "hybrid":
        dense = encoder_from_settings(settings["dense"])
        if isinstance(dense, VectorEncoder):
            return HybridEncoder(dense, depth=settings["depth"], rank_constant=settings["rank_constant"])
    return None
