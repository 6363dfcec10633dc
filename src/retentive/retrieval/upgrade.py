"""Rebuilding a store of format version 1, which kept tokens and not the text, from the text that its tokens spell."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retentive.config_types import check_kind
from retentive.errors import MismatchError
from retentive.files import read_json, remove
from retentive.retrieval.blocks.block import STORE_CURE, damaged, read_block
from retentive.retrieval.blocks.chunking import CHUNKS, padded
from retentive.retrieval.encoders import Encoder, encoder_from_settings
from retentive.retrieval.engines.engine import Engine
from retentive.retrieval.index.choice import IndexConfig
from retentive.retrieval.manifest import current_key, manifest_path, manifest_problem, version_keys
from retentive.retrieval.passages import read_tokenizer
from retentive.retrieval.store import Datastore
from retentive.text.tokenizer import Tokenizer

OLD_VERSION = 1


def upgrade_store(
    folder: Path | str,
    *,
    tokenizer: Tokenizer | None = None,
    encoder: Encoder | None = None,
    index: IndexConfig | None = None,
    engine: Engine | None = None,
) -> Datastore:
    """Rebuild a store of format version 1 in its folder, with the same options, from its own text.

    The report of the store that is returned names, among what was skipped, each document whose tokens do not spell its
    text (those of a vocabulary that drops white space or case): it is kept as they spell it. Neighbour tables have to
    be built again.

    Args:
        folder: Folder of the store.
        tokenizer: Needed if the store was built with a tokenizer of another library.
        encoder: Needed if the store was built with an encoder that is not in `ENCODERS`.
        index: How vectors are indexed.
        engine: Where the work runs; ``None`` is this process.

    Raises:
        MismatchError: If the store is not of version 1, or its encoder is needed.
        DamagedFileError: If a file of it is damaged.
        TypeError: If ``index`` is no config.
    """
    if index is not None:
        check_kind("index", index, IndexConfig)
    folder = Path(folder)
    old = _old_manifest(folder, current_key(folder))
    kept = old["tokenizer"]
    reading = tokenizer or read_tokenizer(folder / kept["kind"] / kept["key"])
    comparing = encoder or encoder_from_settings(old["settings"]["encoder"]["settings"])
    if comparing is None:
        raise MismatchError(f"{str(folder)!r} was built with an encoder of its owner's: pass it as encoder=.")
    changed: list[str] = []
    chunking = old["settings"]["chunking"]
    store = Datastore.build(
        _old_documents(folder, old, reading, changed),
        folder,
        tokenizer=reading,
        chunk_size=chunking["chunk_size"],
        encoder=comparing,
        index=index,
        block_bytes=chunking["block_bytes"],
        engine=engine,
    )
    store.report.skipped += changed
    for key in version_keys(folder):
        if key != store.version and read_json(manifest_path(folder, key), cure=STORE_CURE).get("format_version") == 1:
            remove(manifest_path(folder, key))
    return store


def _old_manifest(folder: Path, key: str) -> dict[str, Any]:
    path = manifest_path(folder, key)
    if (problem := manifest_problem(path)) is not None:
        raise damaged(path, problem)
    content = read_json(path, cure=STORE_CURE)
    if content.get("format_version") != OLD_VERSION:
        found = content.get("format_version")
        raise MismatchError(f"{str(folder)!r} has format version {found}, and only version {OLD_VERSION} is upgraded.")
    return content


def _old_documents(
    folder: Path, old: dict[str, Any], tokenizer: Tokenizer, changed: list[str]
) -> Iterator[tuple[str, str]]:
    """The documents that were not removed, as their tokens spell them."""
    removed, number = set(old["removed"]), 0
    for block in old["chunks"]:
        arrays = read_block(folder, CHUNKS, block["key"]).arrays
        rows, firsts = padded(arrays["tokens"], arrays["lengths"]), arrays["first_rows"].tolist()
        content, begin = arrays["names"].tobytes(), 0
        for local, end in enumerate(arrays["name_ends"].tolist()):
            name, begin = content[begin:end].decode("utf-8"), end
            if number not in removed:
                tokens = rows[firsts[local] : firsts[local + 1]].reshape(-1)
                text = tokenizer.decode(tokens[tokens >= 0].tolist())
                digest = np.frombuffer(hashlib.sha256(text.encode("utf-8")).digest(), dtype=np.uint8)
                if not np.array_equal(digest, arrays["text_hashes"][local]):
                    changed.append(f"document {name!r} is kept as its tokens spell it, which was not its text.")
                yield name, text
            number += 1
