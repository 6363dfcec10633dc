"""Datastores of folders of text: built, added to, and kept in line with the folder."""

import time
from collections.abc import Callable
from pathlib import Path

from retentive.data.sources.folders import list_files
from retentive.data.sources.text_source import SourceConfig, TextSource
from retentive.files.paths import real_path
from retentive.files.progress import say
from retentive.files.targets import check_folder_target
from retentive.retrieval import Datastore, Encoder, Engine, IndexConfig, NeighbourConfig
from retentive.retrieval.maintenance import StoreChange, describe_change
from retentive.text.tokenizer import Tokenizer


def build_store(
    source: SourceConfig,
    store: Path,
    *,
    tokenizer: Tokenizer,
    chunk_size: int,
    encoder: Encoder,
    index: IndexConfig | None,
    block_bytes: int,
    engine: Engine,
    neighbours: NeighbourConfig | None = None,
) -> StoreChange:
    """Build a store of a folder, go on with one or mend one; see `Datastore.build`.

    Args:
        source: The text.
        store: Folder of the store.
        tokenizer: Cuts text into tokens.
        chunk_size: Tokens per chunk.
        encoder: How chunks are compared.
        index: How vectors are indexed; ``None`` keeps the way of the store that is there.
        block_bytes: Bytes of text of a block.
        engine: Where the work runs.
        neighbours: How neighbours are found for training; ``None`` finds none.
    """
    begin = time.monotonic()
    _refuse_inside(store, source.source)
    check_folder_target("store", store)
    documents = TextSource(source)
    made = Datastore.build(
        documents,
        store,
        tokenizer=tokenizer,
        chunk_size=chunk_size,
        encoder=encoder,
        index=index,
        block_bytes=block_bytes,
        engine=engine,
        on_error=source.on_error,
    )
    told = describe_change(made, made.report, problems=documents.problems, neighbours=neighbours, engine=engine)
    told.notes.append(f"took {time.monotonic() - begin:,.1f} s")
    told.notes.append(f'next: retentive index search "some words" --store {store}')
    return told


def add_to_store(
    source: SourceConfig,
    store: Path,
    *,
    replace: bool = False,
    reindex: bool = False,
    engine: Engine,
    neighbours: NeighbourConfig | None = None,
) -> StoreChange:
    """Add the documents of a folder to a store; see `Datastore.add`."""
    opened, documents = _opened(source, store)
    report = opened.add(documents, replace=replace, engine=engine, on_error=source.on_error)
    if reindex:
        opened.reindex(engine=engine)
    return describe_change(opened, report, problems=documents.problems, neighbours=neighbours, engine=engine)


def sync_store(
    source: SourceConfig, store: Path, *, engine: Engine, neighbours: NeighbourConfig | None = None
) -> StoreChange:
    """Bring a store in line with a folder; see `Datastore.sync`."""
    opened, documents = _opened(source, store)
    report = opened.sync(documents, engine=engine, on_error=source.on_error)
    return describe_change(opened, report, problems=documents.problems, neighbours=neighbours, engine=engine)


def watch_store(
    source: SourceConfig,
    store: Path,
    *,
    engine: Engine,
    seconds: float,
    show: Callable[[StoreChange], object],
    neighbours: NeighbourConfig | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Sync a store now and whenever a file of the folder appears, changes or goes, until it is interrupted.

    Args:
        source: The folder.
        store: The store.
        engine: Where the work runs.
        seconds: Time between two looks at the folder.
        show: Called with what each sync did.
        neighbours: As for `sync_store`.
        stop: Asked after each look whether to end.
    """
    if seconds <= 0:
        raise ValueError(f"seconds must be positive, but is {seconds}.")
    seen: object = ()
    told = ""
    while True:
        listed = _listing(source)
        if listed != seen:
            try:
                show(sync_store(source, store, engine=engine, neighbours=neighbours))
                seen, told = listed, ""
            except (ValueError, OSError) as error:  # half-written text, another writer, a disk that is full or away
                if seen == () and not isinstance(error, ValueError | BlockingIOError):
                    raise  # there never was such a folder, or such a store
                if str(error) != told:  # said once, and tried again until it is well
                    told = str(error)
                    say(f"not synced yet: {error}")
        if stop():
            return
        time.sleep(seconds)


def _listing(source: SourceConfig) -> object:
    """What changes when a file appears, changes or goes."""
    try:
        files, _ = list_files(source.source, pattern=source.pattern, exclude=source.exclude)
        return [(file.name, file.size, file.modified) for file in files]
    except OSError:  # gone between listing and asking
        return None


def _opened(source: SourceConfig, store: Path) -> tuple[Datastore, TextSource]:
    _refuse_inside(store, source.source)
    documents = TextSource(source)
    opened = Datastore.open(store)
    check_folder_target("store", store)
    return opened, documents


def _refuse_inside(store: Path, source: Path) -> None:
    if real_path(store).is_relative_to(real_path(source)):
        raise ValueError(f"store must not be inside source, but is {store} in {source}: its files are no text.")
