"""New versions of a store out of the one before: documents added, replaced, taken out, or those of a source."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from retentive.errors import DamagedFileError
from retentive.retrieval.blocks.block import block_path, check_block
from retentive.retrieval.blocks.chunking import CHUNKS, Document, DocumentParts, document_hash
from retentive.retrieval.blocks.corpus import Corpus
from retentive.retrieval.manifest import ChunkBlock, Manifest
from retentive.retrieval.versions.build import Builder, BuildReport, keep_tokenizer, vector_parts
from retentive.retrieval.versions.changes import live_documents, named
from retentive.retrieval.versions.sources import NotedDocuments, refuse_empty
from retentive.text.pieces import utf8_pieces

Known = dict[str, tuple[int, bytes]]
"""Number and hash of each document by its name."""


def corpus_of(builder: Builder, manifest: Manifest) -> Corpus:
    """The text of a version."""
    return Corpus(builder.folder, manifest.chunks, manifest.settings["chunking"]["chunk_size"], manifest.removed)


def known_documents(builder: Builder, corpus: Corpus) -> Known:
    """All documents that can be found; blocks that cannot be read are told, and have none."""
    known: Known = {}
    for block in range(len(corpus.blocks)):
        try:
            known |= live_documents(corpus, block)
        except DamagedFileError as error:
            builder.tell(f"documents of a damaged block count as new ones: {error}")
    return known


def add_documents(
    builder: Builder, before: Manifest, documents: Iterable[Document], replacing: bool, report: BuildReport
) -> Manifest:
    """A version with more documents; the caller holds the lock.

    Raises:
        ValueError: If a name is known with another text and ``replacing`` is False.
    """
    corpus = corpus_of(builder, before)
    known = known_documents(builder, corpus)

    def fresh() -> Iterator[DocumentParts]:
        for document in named(documents):
            name = document[0]
            if name in known and _hash(document) == known[name][1]:
                report.unchanged += 1
                report.skipped.append(f"document {name!r} is there already, with the same text.")
                continue
            if name in known and not replacing:
                raise ValueError(
                    f"document {name!r} is there already with another text: pass replace=True to replace it."
                )
            yield document

    blocks = builder.chunk(fresh(), report, added=True)
    return _with_blocks(builder, before, blocks, known, set(), report)


def sync_documents(builder: Builder, before: Manifest, documents: Iterable[Document], report: BuildReport) -> Manifest:
    """A version whose documents, but for those that `add_documents` brought, are those of a source.

    Documents that the source has but that cannot be read now stay as they are; those that were taken out by name stay
    out. The caller holds the lock.

    Raises:
        ValueError: If the source has no document that can be used.
    """
    corpus = corpus_of(builder, before)
    known = known_documents(builder, corpus)
    withdrawn, seen, left = frozenset(before.withdrawn), set[str](), 0

    def fresh() -> Iterator[DocumentParts]:
        nonlocal left
        for document in named(documents):
            name = document[0]
            seen.add(name)
            if name in withdrawn:
                left += 1
                report.skipped.append(f"document {name!r} was removed and stays so: add it to bring it back.")
            elif name in known and _hash(document) == known[name][1]:
                report.unchanged += 1
            else:
                yield document

    skipped = len(report.skipped)
    blocks = builder.chunk(fresh(), report)
    if not blocks and not report.unchanged and not left:
        refuse_empty(documents, blocks, before, report.skipped[skipped:])
    unusable = documents.unusable if isinstance(documents, NotedDocuments) else []
    followed = {name for name, (number, _) in known.items() if not _block_of(corpus, number).added}
    gone = {name for name in followed - seen if not _is_of(name, unusable)}
    return _with_blocks(builder, before, blocks, known, gone, report)


def remove_documents(builder: Builder, before: Manifest, names: Iterable[str], report: BuildReport) -> Manifest:
    """A version without some documents; the caller holds the lock.

    Raises:
        ValueError: If a document is unknown.
    """
    known = known_documents(builder, corpus_of(builder, before))
    wanted = set(names)
    if unknown := sorted(wanted - set(known)):
        raise ValueError(f"document {unknown[0]!r} is not in the store {str(builder.folder)!r}.")
    report.removed += len(wanted)
    draft = replace(
        before,
        settings=builder.settings_after(before),
        removed=tuple(sorted({*before.removed, *(known[name][0] for name in wanted)})),
        withdrawn=tuple(sorted({*before.withdrawn, *wanted})),
    )
    return builder.finish(builder.complete(draft, vector_parts(before), report, trusted=before)) if wanted else before


def reindexed(builder: Builder, before: Manifest, report: BuildReport) -> Manifest:
    """The version with everything that follows from its text checked, and made again where it is damaged.

    The caller holds the lock.

    Raises:
        DamagedFileError: If text is damaged, which no index holds.
    """
    for block in before.chunks:
        problem, checksum = check_block(builder.folder, CHUNKS, block.key)
        if problem is not None or checksum != block.checksum:
            path = block_path(builder.folder, CHUNKS, block.key)
            cure = "add the documents of it again" if block.added else "build or sync the store from its source again"
            raise DamagedFileError(f"{path} {problem or 'is another block'}: its text is in no other file, so {cure}.")
    settings = builder.settings_after(before) | builder.vector_settings
    if settings.get("vectors") != before.settings.get("vectors"):
        builder.tell("all vectors are made again: the encoder's model has changed")
        settings |= {"encoder": builder.settings["encoder"]}
    tokenizer = keep_tokenizer(builder.folder, builder.tokenizer)
    draft = replace(before, settings=settings, tokenizer=tokenizer)
    return builder.finish(builder.complete(draft, [], report))


def _with_blocks(
    builder: Builder,
    before: Manifest,
    blocks: Sequence[ChunkBlock],
    known: Known,
    gone: set[str],
    report: BuildReport,
) -> Manifest:
    """The version with some blocks more, without the documents that they replace and those that are gone."""
    places = {block.key: number for number, block in enumerate(before.chunks)}
    # A block that is there was damaged and is mended now, or its documents were taken out and come back.
    fresh = [block for block in blocks if block.key not in places]
    corpus = Corpus(builder.folder, blocks, 1, ())
    names = {name for number in range(len(blocks)) for name in corpus.block_names(number)}
    replaced = names & set(known)
    firsts = corpus_of(builder, before).first_documents
    back = {
        number
        for block in blocks
        if block.key in places
        for number in range(firsts[places[block.key]], firsts[places[block.key] + 1])
    }
    removed = {*before.removed, *(known[name][0] for name in replaced | gone)} - back
    report.added += len(names - replaced)
    report.replaced += len(replaced)
    report.removed += len(gone)
    brought = {block.key: block.added for block in blocks}
    kept = (replace(block, added=brought.get(block.key, block.added)) for block in before.chunks)
    draft = replace(
        before,
        settings=builder.settings_after(before),
        chunks=(*kept, *fresh),
        removed=tuple(sorted(int(number) for number in removed)),
        withdrawn=tuple(name for name in before.withdrawn if name not in names),
    )
    if draft == before and not blocks:
        return before
    return builder.finish(builder.complete(draft, vector_parts(before), report, trusted=before))


def _block_of(corpus: Corpus, document: int) -> ChunkBlock:
    return corpus.blocks[int(corpus.first_documents.searchsorted(document, side="right")) - 1]


def _is_of(name: str, unusable: Iterable[str]) -> bool:
    """Whether a document is one of some that cannot be read, or of a file or folder that cannot."""
    return any(name == other or name.startswith((f"{other}/", f"{other}:")) for other in unusable)


def _hash(document: DocumentParts) -> bytes | None:
    """The hash by which documents are compared; ``None`` of a text that UTF-8 cannot hold."""
    _, text, metadata = document
    digest = hashlib.sha256()
    try:
        for piece in utf8_pieces(text):
            digest.update(piece)
    except UnicodeEncodeError:
        return None
    return document_hash(digest.digest(), metadata)
