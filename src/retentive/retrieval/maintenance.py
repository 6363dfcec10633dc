"""What is done with a store besides searching it: each function does one thing whole and says what came of it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retentive.files.targets import check_folder_target
from retentive.retrieval.engines.engine import Engine, LocalEngine
from retentive.retrieval.index.choice import IndexConfig
from retentive.retrieval.neighbours.table import NeighbourConfig
from retentive.retrieval.store import Datastore
from retentive.retrieval.upgrade import upgrade_store
from retentive.retrieval.verify import Damage, verify_store
from retentive.retrieval.versions.build import BuildReport

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class TableCounts:
    """What a neighbour table has.

    Attributes:
        chunks: Chunks that have neighbours.
        k: Places for neighbours of each.
        missing: Places that are empty.
    """

    chunks: int
    k: int
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChange:
    """What was done to a store.

    Attributes:
        store: Its folder.
        version: Key of the version that it shows now.
        documents: Documents that can be found.
        chunks: Chunks that can be found.
        report: Counts of the work.
        problems: A line for each document that was left out.
        table: The neighbour table, if one was wanted.
        notes: Lines that end the display.
    """

    store: Path
    version: str
    documents: int
    chunks: int
    report: BuildReport
    problems: list[str] = field(default_factory=list[str])
    table: TableCounts | None = None
    notes: list[str] = field(default_factory=list[str])

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        report = self.report
        made = ", ".join(f"{count:,} {stage}" for stage, count in report.made.items()) or "nothing"
        kept = ", ".join(f"{count:,} {stage}" for stage, count in report.kept.items()) or "nothing"
        lines = [
            f"store {self.store}: {self.documents:,} documents, {self.chunks:,} chunks",
            f"  blocks made: {made}; found finished and sound: {kept}",
        ]
        counts = {name: getattr(report, name) for name in ("added", "replaced", "removed", "unchanged")}
        if any(counts.values()):
            lines.append("  documents: " + ", ".join(f"{count:,} {name}" for name, count in counts.items() if count))
        left = [*self.problems, *report.skipped]
        lines += [f"  {line}" for line in left[:_SHOWN]]
        if len(left) > _SHOWN:
            lines.append(f"  and {len(left) - _SHOWN:,} more like these")
        if self.table is not None:
            table, places = self.table, self.table.chunks * self.table.k
            places_empty = f"{table.missing:,} of {places:,} places empty"
            lines.append(f"neighbours: {table.chunks:,} chunks with {table.k} each, {places_empty}")
        return [*lines, *self.notes]

    def content(self) -> dict[str, Any]:
        """The same as values that JSON has."""
        return asdict(self) | {"store": str(self.store)}


def describe_change(
    store: Datastore,
    report: BuildReport,
    *,
    problems: list[str] | None = None,
    neighbours: NeighbourConfig | None = None,
    engine: Engine | None = None,
    notes: list[str] | None = None,
) -> StoreChange:
    """Describe what was done to a store, and find the neighbours of every chunk first where they are wanted."""
    table = None
    if neighbours is not None:
        made = store.build_neighbours(neighbours, engine=engine or LocalEngine())
        table = TableCounts(len(made), made.k, made.missing)
    return StoreChange(
        store=store.folder,
        version=store.version,
        documents=store.corpus.num_documents - len(store.corpus.removed),
        chunks=len(store),
        report=report,
        problems=problems or [],
        table=table,
        notes=notes or [],
    )


def remove_from_store(folder: Path, names: list[str], *, neighbours: NeighbourConfig | None = None) -> StoreChange:
    """Remove documents from a store by name.

    Raises:
        ValueError: If a document is unknown; then none is removed.
    """
    store = _writable(folder)
    report = store.remove(names)
    notes = ["their text is in no answer from now on; retentive index gc takes it off the disk"]
    return describe_change(store, report, neighbours=neighbours, notes=notes)


def reindex_store(
    folder: Path,
    *,
    index: IndexConfig | None = None,
    engine: Engine | None = None,
    neighbours: NeighbourConfig | None = None,
) -> StoreChange:
    """Make what follows from a store's text again where it is missing or damaged, without a source."""
    store = _writable(folder)
    report = store.reindex(index=index, engine=engine)
    return describe_change(store, report, neighbours=neighbours, engine=engine)


def upgrade_of_store(folder: Path, *, engine: Engine | None = None) -> StoreChange:
    """Rebuild a store of an earlier version from its own text; see `upgrade_store`."""
    check_folder_target("store", folder)
    store = upgrade_store(folder, engine=engine)
    notes = ["neighbour tables, where there were some, have to be built again: retentive index reindex --table true"]
    return describe_change(store, store.report, notes=notes)


def collect_garbage_of_store(folder: Path, *, engine: Engine | None = None) -> StoreChange:
    """Take earlier versions, and the text of removed documents, off the disk."""
    store = _writable(folder)
    freed = store.gc(engine=engine)
    notes = [
        f"deleted {freed.files:,} file{'' if freed.files == 1 else 's'}, {freed.bytes:,} bytes, with the text of "
        f"{freed.documents:,} removed document{'' if freed.documents == 1 else 's'}"
    ]
    return describe_change(store, store.report, notes=notes)


@dataclass(frozen=True, slots=True)
class DocumentLine:
    """A document of a store, as `list_store` shows it.

    Attributes:
        name: Its name.
        bytes: Bytes of its text, as UTF-8.
        chunks: Its chunks.
        added: Whether `add` brought it, and not the source that builds and syncs follow.
        metadata: Its columns.
    """

    name: str
    bytes: int
    chunks: int
    added: bool
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DocumentList:
    """The documents of a store.

    Attributes:
        documents: The documents that can be found.
        withdrawn: Names that were removed, and that builds and syncs leave out.
    """

    documents: list[DocumentLine]
    withdrawn: list[str]

    def lines(self) -> list[str]:
        """One line for each document, and one for each name that was taken out."""
        lines = [
            f"{one.bytes:>12,} bytes {one.chunks:>8,} chunks  {one.name}{'  (added)' if one.added else ''}"
            for one in self.documents
        ]
        return [*lines, *(f"{'removed':>34}  {name}" for name in self.withdrawn)]

    def content(self) -> dict[str, Any]:
        """The same as values that JSON has."""
        return asdict(self)


def list_store(folder: Path) -> DocumentList:
    """The documents of a store."""
    store = Datastore.open(folder)
    corpus = store.corpus
    documents = [
        DocumentLine(
            name,
            corpus.text_bytes(number),
            len(corpus.chunks_of(number)),
            corpus.blocks[block].added,
            corpus.metadata(number),
        )
        for block in range(len(corpus.blocks))
        for number, name in corpus.live_names(block)
    ]
    return DocumentList(documents, list(store.manifest.withdrawn))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify_store` found.

    Attributes:
        store: Folder of the store.
        damage: What is damaged, each with its cure.
    """

    store: Path
    damage: list[Damage]

    @property
    def passed(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damage

    def lines(self) -> list[str]:
        """A line for each damaged file, or one that says that there is none."""
        if not self.damage:
            return [f"{self.store}: everything is as its checksum says"]
        return [*map(str, self.damage), f"{len(self.damage):,} damaged: each line ends with its cure"]

    def content(self) -> dict[str, Any]:
        """The same as values that JSON has."""
        found = [{"path": str(one.path), "reason": one.reason, "cure": one.cure} for one in self.damage]
        return {"store": str(self.store), "damage": found}


def check_store(folder: Path) -> Verdict:
    """Read every file of a store and name what is damaged."""
    return Verdict(folder, verify_store(folder))


def _writable(folder: Path) -> Datastore:
    store = Datastore.open(folder)
    check_folder_target("store", folder)
    return store
