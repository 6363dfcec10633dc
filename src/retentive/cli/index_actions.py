"""What ``retentive index`` does: options as values, one function each, what is printed."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from retentive.files.progress import say
from retentive.retrieval import (
    Datastore,
    DenseEncoder,
    Encoder,
    Engine,
    HybridEncoder,
    IndexConfig,
    LocalEngine,
    NeighbourConfig,
    NeighbourTable,
    make_encoder,
)
from retentive.retrieval.build import BuildReport
from retentive.retrieval.plan import PlanConfig, check_plans, make_plan
from retentive.retrieval.search.display import describe, find
from retentive.retrieval.verify import verify_store
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from retentive.data.sources.documents import Document, Problem

_SHOWN = 10
_BOLD, _PLAIN = "\033[1;32m", "\033[0m"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Which text.

    Args:
        source: A folder of text, or one file. Files named .jsonl or .ndjson hold a JSON object a line, those named
            .parquet a table, all others UTF-8 text, one document each.
        pattern: Which files of a folder: globs relative to it, separated by commas; ** is any number of folders.
            Hidden files are left out unless a glob names the dot.
        exclude: Which files and whole folders to leave out, as in "**/site-packages,**/test".
        field: Field of JSON objects, or column of tables, that holds the text.
        separator: String between the documents of one text file. Without it each file is one document.
        max_document_bytes: Documents and lines of JSON above this size in bytes are not used.
        on_error: What happens when a document cannot be used (unreadable, no UTF-8, too large): "skip" leaves it out
            and says so, "stop" ends the build, which can be started again once it is mended.
    """

    source: Path
    pattern: str = "**/*"
    exclude: str = ""
    field: str = "text"
    separator: str | None = None
    max_document_bytes: int = 256 << 20
    on_error: Literal["skip", "stop"] = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Where the work is done.

    Args:
        engine: "local" for processes of this machine, "ray" for a Ray cluster.
        workers: How many work side by side; without it, one on this machine, and one a core of a Ray cluster.
        address: Of a Ray cluster, as host:port; without it the one that runs here, or a new one on this machine.
    """

    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.address is not None and self.engine != "ray":
            raise ValueError(f"address is of a Ray cluster, but engine is {self.engine!r}: add --engine ray.")

    def make(self) -> Engine:
        """The engine itself."""
        if self.engine == "local":
            return LocalEngine(1 if self.workers is None else self.workers)
        from retentive.retrieval.engines.ray_engine import RayEngine

        return RayEngine(address=self.address, workers=self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """How a store is made.

    Args:
        store: Folder of the store, of its own.
        tokenizer: "bytes", "encoder" (that of a dense encoder), or the path of a tokenizer.json or of a folder with
            one, as "retentive prepare" and "retentive train" write it.
        end_of_text: For a tokenizer.json, the token that ends a document, where that is not plain from the file.
        chunk_size: Tokens of a chunk.
        encoder: What chunks are compared by: "lexical" (words, BM25), "dense" (vectors), "hybrid" (both), or another
            name in retentive.retrieval.ENCODERS.
        model: For dense and hybrid, folder or hub id of the encoder, as bert-base-cased.
        pooling: Vector of a chunk: "mean" of its tokens, or "cls", the first.
        batch_size: Chunks that are encoded together; null takes 16 on a CPU and 128 on a GPU.
        index: How vectors are indexed; without meaning for words alone.
        table: Also find the neighbours of every chunk, for training.
        neighbours: How that table is made.
        block_bytes: Bytes of text of a block: what an interruption can cost, and what a worker takes at a time.
    """

    store: Path
    tokenizer: str = "bytes"
    end_of_text: str | None = None
    chunk_size: int = 64
    encoder: str = "lexical"
    model: str | None = None
    pooling: Literal["mean", "cls"] = "mean"
    batch_size: int | None = None
    index: IndexConfig = field(default_factory=IndexConfig)
    table: bool = False
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)
    block_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AddConfig:
    """How documents are added.

    Args:
        store: Folder of the store.
        replace: Let a document of a known name with another text take the place of the old one.
        reindex: Make one index over everything afterwards; additions leave one part each.
        table: Find the neighbours of every chunk again, for training.
        neighbours: How that table is made.
    """

    store: Path
    replace: bool = False
    reindex: bool = False
    table: bool = False
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """What is searched for.

    Args:
        text: What to search for; "-" reads it from standard input.
        store: Folder of the store.
        k: How many answers.
    """

    text: str
    store: Path
    k: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveConfig:
    """What is removed.

    Args:
        names: Names of documents.
        store: Folder of the store.
        table: Find the neighbours of every chunk again, for training.
        neighbours: How that table is made.
    """

    names: list[str]
    store: Path
    table: bool = False
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Which store.

    Args:
        store: Folder of the store.
    """

    store: Path


class Documents:
    """The documents of a source, read one at a time; what cannot be used is left out and noted, or stops the reading.

    Attributes:
        total_bytes: Size of all files.
        read_bytes: Bytes of files that were read so far.
        problems: A line for each document that was left out, or is used although it looks strange.
    """

    def __init__(self, config: SourceConfig) -> None:
        from retentive.data.sources.folders import list_files

        self._config = config
        self._files, self._unlisted = list_files(config.source, pattern=config.pattern, exclude=config.exclude)
        if not self._files and not self._unlisted:
            raise ValueError(
                f"pattern {config.pattern!r} (exclude {config.exclude!r}) finds no file in {config.source}."
            )
        self.total_bytes = sum(file.size for file in self._files)
        self.read_bytes = 0
        self.problems: list[str] = []

    def __iter__(self) -> "Iterator[Document]":
        """Documents in the order of their names."""
        from retentive.data.sources.documents import Document
        from retentive.data.sources.reading import read_documents

        self.read_bytes, self.problems = 0, []
        for problem in self._unlisted:
            self._note(problem)
        config = self._config
        reading = read_documents(
            self._files,
            field=config.field,
            separator=config.separator,
            max_document_bytes=config.max_document_bytes,
            on_bytes=self._count,
        )
        for found in reading:
            if isinstance(found, Document):
                yield found
            else:
                self._note(found)

    def _count(self, size: int) -> None:
        self.read_bytes += size

    def _note(self, problem: "Problem") -> None:
        line = f"{problem.name}: {problem.message}"
        if self._config.on_error == "stop" and not problem.kept and problem.kind != "empty":
            raise ValueError(f"{line}; finished blocks are kept (on_error=skip leaves such documents out).")
        self.problems.append(line)


def build(source: SourceConfig, config: BuildConfig, engine: EngineConfig) -> None:
    """Build, go on with, or mend a store; find neighbours if they are wanted."""
    begin = time.monotonic()
    _refuse_inside(config.store, source.source)
    documents, working = Documents(source), engine.make()
    encoder = _encoder(config)
    store = Datastore.build(
        documents,
        config.store,
        tokenizer=_tokenizer(config, encoder),
        chunk_size=config.chunk_size,
        encoder=encoder,
        index=config.index,
        block_bytes=config.block_bytes,
        engine=working,
        on_error=source.on_error,
    )
    _report(store, store.report, documents.problems)
    if config.table:
        _table(store, config.neighbours, working)
    print(f"took {time.monotonic() - begin:,.1f} s")
    print(f'next: retentive index search "some words" --store {config.store}')


def search(config: SearchConfig) -> None:
    """Print answers with their place, the words of the query marked."""
    text = sys.stdin.read() if config.text == "-" else config.text
    begin = time.monotonic()
    store = Datastore.open(config.store)
    opened = time.monotonic()
    hits = find(store, text, config.k)
    found = time.monotonic()
    marks = (_BOLD, _PLAIN) if sys.stdout.isatty() else ("[", "]")
    for hit in hits:
        print("\n".join(hit.lines(*marks)))
    if not hits:
        print("nothing found: no chunk has a word of it")
    say(f"opened in {1000 * (opened - begin):,.0f} ms, searched in {1000 * (found - opened):,.0f} ms")


def add(source: SourceConfig, config: AddConfig, engine: EngineConfig) -> None:
    """Add documents to a store."""
    _refuse_inside(config.store, source.source)
    documents, working = Documents(source), engine.make()
    store = Datastore.open(config.store)
    report = store.add(documents, replace=config.replace, engine=working, on_error=source.on_error)
    if config.reindex:
        store.reindex(engine=working)
    _report(store, report, documents.problems)
    if config.table:
        _table(store, config.neighbours, working)


def remove(config: RemoveConfig) -> None:
    """Remove documents from a store."""
    store = Datastore.open(config.store)
    store.remove(config.names)
    count = len(set(config.names))
    print(f"removed {count:,} document{'' if count == 1 else 's'}; {len(store):,} chunks are left that can be found")
    print("their text is in no answer from now on; it stays on disk, unused, until a store is built without it")
    if config.table:
        _table(store, config.neighbours, LocalEngine())


def verify(config: StoreConfig) -> bool:
    """Name what is damaged; True if nothing is."""
    damaged = verify_store(config.store)
    for damage in damaged:
        print(damage)
    if damaged:
        print(f"{len(damaged):,} damaged: build again with the same options and text to mend just these")
        return False
    print(f"{config.store}: everything is as its checksum says")
    return True


def info(config: StoreConfig) -> None:
    """Print what a store holds."""
    print("\n".join(describe(Datastore.open(config.store)).lines()))


def plan(config: PlanConfig) -> None:
    """Print a plan, and how the same formulas do where others have published figures."""
    print("\n".join(make_plan(config).lines()))
    checks = check_plans()
    agreeing = sum(check.agrees for check in checks)
    print(f"\nthe same formulas at published points ({agreeing} of {len(checks)} agree within 15 percent):")
    print("\n".join(check.line() for check in checks))


def _refuse_inside(store: Path, source: Path) -> None:
    if store.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"store must not be inside source, but is {store} in {source}: its files are no text.")


def _encoder(config: BuildConfig) -> Encoder:
    options: dict[str, Any] = {}
    if config.encoder in ("dense", "hybrid"):
        options = {"pooling": config.pooling, "batch_size": config.batch_size}
    return make_encoder(config.encoder, config.model, **options)


def _tokenizer(config: BuildConfig, encoder: Encoder) -> Tokenizer:
    if config.tokenizer == "encoder":
        dense = encoder.dense if isinstance(encoder, HybridEncoder) else encoder
        if not isinstance(dense, DenseEncoder):
            raise ValueError(f"tokenizer=encoder needs encoder dense or hybrid, but encoder is {config.encoder}.")
        return dense.tokenizer
    if config.tokenizer == "bytes":
        if config.end_of_text is not None:
            raise ValueError("end_of_text is for a tokenizer.json, but tokenizer is bytes.")
        return ByteTokenizer()
    if not Path(config.tokenizer).exists():
        message = f"tokenizer must be bytes, encoder or a path, but {config.tokenizer!r} is none of them"
        raise FileNotFoundError(f"{message}.")
    from retentive.text.loading import load_tokenizer

    return load_tokenizer(config.tokenizer, end_of_text=config.end_of_text)


def _report(store: Datastore, report: BuildReport, problems: list[str]) -> None:
    made = ", ".join(f"{count:,} {stage}" for stage, count in report.made.items()) or "nothing"
    kept = ", ".join(f"{count:,} {stage}" for stage, count in report.kept.items()) or "nothing"
    print(f"store {store.folder}: {store.corpus.num_documents:,} documents, {len(store):,} chunks")
    print(f"  blocks made: {made}; found finished and sound: {kept}")
    left = [*problems, *report.skipped]
    for line in left[:_SHOWN]:
        print(f"  {line}")
    if len(left) > _SHOWN:
        print(f"  and {len(left) - _SHOWN:,} more like these")


def _table(store: Datastore, config: NeighbourConfig, engine: Engine) -> NeighbourTable:
    table = store.build_neighbours(config, engine=engine)
    places = len(table) * config.k
    print(f"neighbours: {len(table):,} chunks with {config.k} each, {table.missing:,} of {places:,} places empty")
    return table
