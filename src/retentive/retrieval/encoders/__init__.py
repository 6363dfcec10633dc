"""Encoders: what chunks and queries are compared by.

`ENCODERS` has every kind of encoder by the name that `make_encoder` takes and that manifests hold. An encoder is added
by its file here and a line in the dictionary; from outside the package,
``retentive.retrieval.encoders.ENCODERS["mine"] = MyEncoder`` before a store is built or opened.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retentive.retrieval.encoders.dense import DenseEncoder
from retentive.retrieval.encoders.hybrid import HybridEncoder, HybridKind
from retentive.retrieval.encoders.lexical import LexicalEncoder
from retentive.retrieval.encoders.protocol import Encoder, EncoderKind, FusedEncoder, VectorEncoder, WordEncoder

ENCODERS: dict[str, EncoderKind] = {
    "lexical": LexicalEncoder,
    "dense": DenseEncoder,
}
ENCODERS["hybrid"] = HybridKind(ENCODERS)

__all__ = [
    "ENCODERS",
    "DenseEncoder",
    "Encoder",
    "EncoderKind",
    "FusedEncoder",
    "HybridEncoder",
    "LexicalEncoder",
    "VectorEncoder",
    "WordEncoder",
    "make_encoder",
]


def make_encoder(name: str, model: str | Path | None = None, **options: Any) -> Encoder:
    """Make an encoder by name.

    Args:
        name: A name in `ENCODERS`: ``lexical``, ``dense`` or ``hybrid``.
        model: Folder or hub id of the model; needed by all but ``lexical``.
        options: For ``dense`` and ``hybrid`` arguments of `DenseEncoder`.

    Raises:
        ValueError: If there is no such encoder, or if it lacks its model.
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, but is {name!r}.")
    return ENCODERS[name].make(model, **options)


def encoder_from_settings(settings: Mapping[str, Any]) -> Encoder | None:
    """Make the encoder that a manifest describes; ``None`` for one that only its owner can make."""
    kind = ENCODERS.get(settings.get("kind", ""))
    return None if kind is None else kind.from_settings(settings)
