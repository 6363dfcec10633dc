"""What differs between versions of a store, in words, and which documents a version has."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from retentive.errors import RetentiveError
from retentive.retrieval.blocks.chunking import Document, DocumentParts, document_hash, document_parts
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.manifest import Manifest


def changed_settings(before: Manifest, settings: dict[str, Any]) -> list[str]:
    """Differences between settings, in words."""
    changes: list[str] = []
    old, new = before.settings, settings
    for name in ("chunk_size", "block_bytes"):
        if old["chunking"][name] != new["chunking"][name]:
            changes.append(f"{name} was {old['chunking'][name]} and is {new['chunking'][name]}")
    if old["tokenizer"]["fingerprint"] != new["tokenizer"]["fingerprint"]:
        changes.append(f"the tokenizer was {_short(old['tokenizer'])} and is {_short(new['tokenizer'])}")
    if old["encoder"]["fingerprint"] != new["encoder"]["fingerprint"]:
        kinds = [entry["encoder"]["settings"].get("kind", "own") for entry in (old, new)]
        prints = [entry["encoder"]["fingerprint"][:8] for entry in (old, new)]
        changes.append(f"the encoder was {kinds[0]} ({prints[0]}) and is {kinds[1]} ({prints[1]})")
    if "index" in old and "index" in new:
        altered = [name for name, value in new["index"].items() if old["index"].get(name) != value]
        changes += [f"index.{name} was {old['index'].get(name)} and is {new['index'][name]}" for name in altered]
    return changes


def changed_documents(folder: Path, before: Manifest, after: Manifest) -> list[str]:
    """Documents that are new, gone or altered since a version, in words; only blocks that differ are read."""
    manifests = (before, after)
    keys = [{block.key for block in manifest.chunks} for manifest in manifests]
    # Blocks of both versions have the same documents, but not all of them may be removed in both.
    shared = keys[0] & keys[1] if not before.removed and not after.removed else set[str]()
    try:
        old, new = (_differing(folder, manifest, shared) for manifest in manifests)
    except RetentiveError as error:
        return [f"the changes since the last build are not known: {error}"]
    groups = {
        "altered": [name for name in new if name in old and new[name] != old[name]],
        "new": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
    }
    return [_listed(kind, names) for kind, names in groups.items() if names]


def _differing(folder: Path, manifest: Manifest, shared: set[str]) -> dict[str, bytes]:
    corpus = Corpus(folder, manifest.chunks, 1, manifest.removed)
    blocks = [number for number, block in enumerate(manifest.chunks) if block.key not in shared]
    return {name: digest for block in blocks for name, (_, digest) in live_documents(corpus, block).items()}


def live_documents(corpus: Corpus, block: int) -> dict[str, tuple[int, bytes]]:
    """Number and `document_hash` of each document of a block that was not removed, by name."""
    texts, columns = corpus.arrays(block)["text_hashes"], corpus.block_metadata(block)
    first = int(corpus.first_documents[block])
    return {
        name: (number, document_hash(texts[number - first].tobytes(), columns[number - first]))
        for number, name in corpus.live_names(block)
    }


def named(documents: Iterable[Document]) -> Iterator[DocumentParts]:
    """Convert documents to name, text and metadata."""
    return (document_parts(document) for document in documents)


def _listed(kind: str, names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    those = "document is" if len(names) == 1 else "documents are"
    return f"{len(names):,} {those} {kind} since the last build: {shown}"


def _short(tokenizer: dict[str, Any]) -> str:
    return f"{tokenizer['name']} ({tokenizer['fingerprint'][:8]})"
