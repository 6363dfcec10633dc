"""The actions of ``retentive index``: each makes values of its options, calls one function, and gives what to print."""

from retentive.cli.commands.index.options import (
    AddConfig,
    BuildConfig,
    EngineConfig,
    EvaluateStoreConfig,
    ReindexConfig,
    RemoveConfig,
    ServeStoreConfig,
    StoreConfig,
    SyncConfig,
)
from retentive.data.sources.text_source import SourceConfig
from retentive.data.text_stores import add_to_store, build_store, sync_store, watch_store
from retentive.retrieval import NeighbourConfig
from retentive.retrieval.maintenance import (
    DocumentList,
    StoreChange,
    Verdict,
    check_store,
    collect_garbage_of_store,
    list_store,
    reindex_store,
    remove_from_store,
    upgrade_of_store,
)
from retentive.retrieval.plan import CheckedPlan, PlanConfig, checked_plan
from retentive.retrieval.rerankers import open_reranker
from retentive.retrieval.search.display import (
    Measures,
    StoreInfo,
    describe_store,
    evaluate_store,
)
from retentive.retrieval.service.server import serve_store


def build(source: SourceConfig, config: BuildConfig, engine: EngineConfig) -> StoreChange:
    """Build, go on with, or mend a store; find neighbours if they are wanted."""
    encoder = config.make_encoder()
    return build_store(
        source,
        config.store,
        tokenizer=config.make_tokenizer(encoder),
        chunk_size=config.chunk_size,
        encoder=encoder,
        index=config.index,
        block_bytes=config.block_bytes,
        engine=engine.make(),
        neighbours=_wanted(config.table, config.neighbours),
    )


def add(source: SourceConfig, config: AddConfig, engine: EngineConfig) -> StoreChange:
    """Add documents to a store."""
    return add_to_store(
        source,
        config.store,
        replace=config.replace,
        reindex=config.reindex,
        engine=engine.make(),
        neighbours=_wanted(config.table, config.neighbours),
    )


def sync(source: SourceConfig, config: SyncConfig, engine: EngineConfig) -> StoreChange | None:
    """Bring a store in line with a folder, once or until it is interrupted."""
    neighbours = _wanted(config.table, config.neighbours)
    if not config.watch:
        return sync_store(source, config.store, engine=engine.make(), neighbours=neighbours)
    show = _print_lines
    watch_store(source, config.store, engine=engine.make(), seconds=config.seconds, show=show, neighbours=neighbours)
    return None


def remove(config: RemoveConfig) -> StoreChange:
    """Remove documents from a store."""
    return remove_from_store(config.store, config.names, neighbours=_wanted(config.table, config.neighbours))


def evaluate(config: EvaluateStoreConfig) -> Measures:
    """Rank documents for each query, and say how well."""
    return evaluate_store(
        config.store,
        config.queries,
        config.judgements,
        depth=config.depth,
        run_file=config.run,
        rerank=config.rerank if config.reranker is None else open_reranker(config.reranker),
    )


def reindex(config: ReindexConfig, engine: EngineConfig) -> StoreChange:
    """Make vectors, indexes and statistics again from the text that is kept."""
    neighbours = _wanted(config.table, config.neighbours)
    return reindex_store(config.store, engine=engine.make(), neighbours=neighbours)


def upgrade(config: StoreConfig, engine: EngineConfig) -> StoreChange:
    """Rebuild a store of an earlier version."""
    return upgrade_of_store(config.store, engine=engine.make())


def gc(config: StoreConfig, engine: EngineConfig) -> StoreChange:
    """Take earlier versions and removed text off the disk."""
    return collect_garbage_of_store(config.store, engine=engine.make())


def serve(config: ServeStoreConfig) -> None:
    """Serve a store until it is interrupted."""
    serve_store(
        config.store,
        host=config.host,
        port=config.port,
        stdio=config.stdio,
        writable=config.writable,
        reranker=config.reranker,
    )


def list_documents(config: StoreConfig) -> DocumentList:
    """The documents of a store."""
    return list_store(config.store)


def verify(config: StoreConfig) -> Verdict:
    """Name what is damaged."""
    return check_store(config.store)


def info(config: StoreConfig) -> StoreInfo:
    """What a store holds."""
    return describe_store(config.store)


def plan(config: PlanConfig) -> CheckedPlan:
    """Sizes and hours, and how the same formulas do where others have published figures."""
    return checked_plan(config)


def _wanted(table: bool, config: NeighbourConfig) -> NeighbourConfig | None:
    return config if table else None


def _print_lines(change: StoreChange) -> None:
    print("\n".join(change.lines()), flush=True)
