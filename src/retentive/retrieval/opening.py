"""Opening a version of a store: its manifest, its tokenizer and its encoder."""

from pathlib import Path
from typing import Any

from retentive.errors import MismatchError
from retentive.retrieval.blocks.sealed_folder import check_folder
from retentive.retrieval.blocks.texts import forget_blocks
from retentive.retrieval.encoders import Encoder, encoder_from_settings
from retentive.retrieval.encoders.protocol import parts_of
from retentive.retrieval.manifest import Manifest, read_current, read_manifest
from retentive.retrieval.passages import read_tokenizer
from retentive.text.tokenizer import Tokenizer

_TOKENIZER_CURE = "build the store again with the same tokenizer, or open it with tokenizer= and reindex it"


def open_parts(
    folder: Path, tokenizer: Tokenizer | None, encoder: Encoder | None, version: str | None
) -> tuple[Manifest, Tokenizer, Encoder]:
    """The manifest, tokenizer and encoder of a version; see `Datastore.open`.

    What this process has read of blocks before is forgotten: each opening checks what it reads.
    """
    forget_blocks()
    manifest = read_current(folder) if version is None else read_manifest(folder, version)
    made = manifest.settings
    kept = tokenizer or _kept_tokenizer(folder, manifest)
    if tokenizer is not None:
        _check_fingerprint("tokenizer", folder, made["tokenizer"]["fingerprint"], tokenizer.fingerprint())
    comparing = encoder or encoder_from_settings(made["encoder"]["settings"])
    if comparing is None:
        kind = made["encoder"]["settings"].get("kind")
        raise MismatchError(f"{str(folder)!r} was built with an encoder of kind {kind!r}: pass it as encoder=.")
    if encoder is not None and not _differs_in_words_alone(made, encoder):
        _check_fingerprint("encoder", folder, made["encoder"]["fingerprint"], encoder.fingerprint())
    return manifest, kept, comparing


def _kept_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    """The tokenizer that is saved in the store; checking its checksums is faster than its fingerprint."""
    check_folder(folder, manifest.tokenizer, cure=_TOKENIZER_CURE)
    return read_tokenizer(folder / manifest.tokenizer.kind / manifest.tokenizer.key)


def _differs_in_words_alone(made: dict[str, Any], encoder: Encoder) -> bool:
    """Whether an encoder has the options and vectors of the store: its words are checked where they are searched.

    An index of words is made again from the text that is kept, and so a store can be opened for that.
    """
    lexical, dense = parts_of(encoder)
    if lexical is None or encoder.settings() != made["encoder"]["settings"]:
        return False
    return dense is None or dense.fingerprint() == made["vectors"]["fingerprint"]


def _check_fingerprint(what: str, folder: Path, wanted: str, found: str) -> None:
    if wanted != found:
        message = (
            f"{str(folder)!r} was built with the {what} of fingerprint {wanted[:16]}, but this one has {found[:16]}"
        )
        raise MismatchError(f"{message}: open it with the same {what}, or build a store with this one.")
