"""The actions of ``retentive index``: each calls the datastore and prints what came of it."""

import json
import sys
import time
from pathlib import Path

from retentive.cli.index.options import (
    AddConfig,
    BuildConfig,
    EngineConfig,
    EvaluateConfig,
    RemoveConfig,
    SearchConfig,
    StoreConfig,
)
from retentive.data.sources.text_source import SourceConfig, TextSource
from retentive.files import write_atomically
from retentive.files.progress import say, with_progress
from retentive.files.targets import check_folder_target
from retentive.retrieval import (
    Datastore,
    Engine,
    LocalEngine,
    NeighbourConfig,
    NeighbourTable,
)
from retentive.retrieval.build import BuildReport
from retentive.retrieval.plan import PlanConfig, check_plans, make_plan
from retentive.retrieval.search.display import answer_lines, describe
from retentive.retrieval.search.evaluation import (
    quality_of,
    rank_documents,
    read_judgements,
    read_topics,
    run_lines,
)
from retentive.retrieval.upgrade import upgrade_store
from retentive.retrieval.verify import verify_store

_SHOWN = 10
_BOLD, _PLAIN = "\033[1;32m", "\033[0m"


def build(source: SourceConfig, config: BuildConfig, engine: EngineConfig) -> None:
    """Build, go on with, or mend a store; find neighbours if they are wanted."""
    begin = time.monotonic()
    _refuse_inside(config.store, source.source)
    check_folder_target("store", config.store)
    documents, working = TextSource(source), engine.make()
    encoder = config.make_encoder()
    store = Datastore.build(
        documents,
        config.store,
        tokenizer=config.make_tokenizer(encoder),
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
    """Print answers with their place, the words of the query marked, or as JSON."""
    text = sys.stdin.read() if config.text == "-" else config.text
    begin = time.monotonic()
    store = Datastore.open(config.store)
    opened = time.monotonic()
    answers = store.answers(
        text,
        config.k,
        where=config.where,
        one_per_document=config.one_per_document,
        operators=config.operators,
    )
    found = time.monotonic()
    if config.json:
        print(json.dumps([answer.as_dict() for answer in answers], ensure_ascii=False, indent=1))
        return
    marks = (_BOLD, _PLAIN) if sys.stdout.isatty() else ("", "")
    print("\n".join(answer_lines(answers, *marks) or ["nothing found: no chunk has a word of it"]))
    say(f"opened in {1000 * (opened - begin):,.0f} ms, searched in {1000 * (found - opened):,.0f} ms")


def add(source: SourceConfig, config: AddConfig, engine: EngineConfig) -> None:
    """Add documents to a store."""
    _refuse_inside(config.store, source.source)
    documents, working = TextSource(source), engine.make()
    store = Datastore.open(config.store)
    check_folder_target("store", config.store)
    report = store.add(documents, replace=config.replace, engine=working, on_error=source.on_error)
    if config.reindex:
        store.reindex(engine=working)
    _report(store, report, documents.problems)
    if config.table:
        _table(store, config.neighbours, working)


def remove(config: RemoveConfig) -> None:
    """Remove documents from a store."""
    store = Datastore.open(config.store)
    check_folder_target("store", config.store)
    store.remove(config.names)
    count = len(set(config.names))
    print(f"removed {count:,} document{'' if count == 1 else 's'}; {len(store):,} chunks are left that can be found")
    print("their text is in no answer from now on; it stays on disk, unused, until a store is built without it")
    if config.table:
        _table(store, config.neighbours, LocalEngine())


def evaluate(config: EvaluateConfig) -> None:
    """Rank documents for each query, and print how well."""
    topics, judged = read_topics(config.queries), read_judgements(config.judgements)
    if unknown := judged.keys() - topics.keys():
        raise ValueError(f"{config.judgements} judges query {min(unknown)!r}, which is not in {config.queries}.")
    store = Datastore.open(config.store)
    asked = with_progress(topics.items(), "evaluate", total=len(topics), unit="queries")
    run = {name: rank_documents(store, text, config.depth) for name, text in asked}
    if config.run is not None:
        write_atomically(config.run, "".join(f"{line}\n" for line in run_lines(run, "retentive")).encode())
    measures = quality_of(run, judged, config.depth).as_dict()
    if config.json:
        print(json.dumps(measures, indent=1))
    else:
        print(
            "\n".join(
                f"{name:<14}{value:>10,.4f}" if isinstance(value, float) else f"{name:<14}{value:>10,}"
                for name, value in measures.items()
            )
        )


def upgrade(config: StoreConfig, engine: EngineConfig) -> None:
    """Rebuild a store of an earlier version."""
    check_folder_target("store", config.store)
    store = upgrade_store(config.store, engine=engine.make())
    _report(store, store.report, [])
    print("neighbour tables, where there were some, have to be built again: retentive index build with --table true")


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
