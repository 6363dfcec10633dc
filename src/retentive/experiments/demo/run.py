"""The demo: the main job from a folder of text to a report, on a laptop in ten minutes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retentive.checkpoints import load_model
from retentive.data.neighbours.stores import FOLDER, ChunkNeighbours
from retentive.data.token_store import TokenStore
from retentive.evaluation.measures.documents import select_documents
from retentive.evaluation.measures.speed import SpeedReport, measure_speed
from retentive.evaluation.model_evaluation import evaluate_model
from retentive.evaluation.report.files import write_report
from retentive.evaluation.report.pictures import require_matplotlib
from retentive.experiments.demo.config import DemoConfig
from retentive.experiments.demo.contenders import CONTENDERS
from retentive.experiments.demo.report import Evaluations, Measurements, make_report
from retentive.experiments.demo.sample import stream_and_go_on
from retentive.experiments.demo.training import headline, prepare_store, train_contender
from retentive.files.progress import ProgressBar
from retentive.files.targets import check_folder_target
from retentive.models.protocol import LanguageModel

EVALUATED_BYTES = 150_000
LONGEST_DOCUMENT = 40_000
"""In bytes: one pass of a Transformer takes time that grows as the square of a document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What a demo made.

    Attributes:
        page: The report.
        model: Folder of the first contender, which wrote the sample.
        session: File with the state after that text.
        seconds: Duration of everything.
    """

    page: Path
    model: Path
    session: Path
    seconds: float


def run_demo(config: DemoConfig) -> DemoResult:
    """Prepare, train, evaluate, stream, go on and report; each step says what it does on standard output."""
    begin = time.perf_counter()
    require_matplotlib()
    check_folder_target("output", config.output)
    store = prepare_store(config)
    runs = {contender.name: train_contender(contender, config, store) for contender in CONTENDERS}
    models = {name: load_model(run.model) for name, run in runs.items()}
    evaluations, speed = _measure(models, store, config)
    first, session = CONTENDERS[0].name, config.output / "session.safetensors"
    headline(3 + len(CONTENDERS), "stream: text as it comes; then its state goes on in a new process")
    sample = stream_and_go_on(models[first], runs[first].model, store, session)
    measured = Measurements(
        evaluations=evaluations,
        speed=speed,
        models=models,
        runs=runs,
        store=store,
        sample=sample,
        seconds=time.perf_counter() - begin,
    )
    page = write_report(make_report(measured), config.output)
    return DemoResult(page=page, model=runs[first].model, session=session, seconds=time.perf_counter() - begin)


def _measure(
    models: Mapping[str, LanguageModel], store: TokenStore, config: DemoConfig
) -> tuple[Evaluations, SpeedReport]:
    headline(2 + len(CONTENDERS), "evaluate: held-out text, loss by position, speed and size of the state")
    documents = select_documents(store, max_bytes=EVALUATED_BYTES, max_document_bytes=LONGEST_DOCUMENT)
    evaluations = {
        name: evaluate_model(model, documents, neighbours=_neighbours(model, store), label=name)
        for name, model in models.items()
    }
    for name, evaluation in evaluations.items():
        ways = ", ".join(f"{way.bits_per_byte:.3f} ({way.method})" for way in evaluation.bits_per_byte)
        print(f"  {name:<12} bits per byte {ways.replace('_', ' ')}")
    budget = config.minutes * 60 / 8
    with ProgressBar("time decoding", total=int(budget), unit="seconds") as progress:
        return evaluations, measure_speed(models, budget_seconds=budget, on_seconds=progress.advance)


def _neighbours(model: LanguageModel, store: TokenStore) -> ChunkNeighbours | None:
    """The neighbours that training found, for a model that reads them."""
    chunks = model.chunked_reading
    if chunks is None:
        return None
    return ChunkNeighbours(store, "heldout", store.folder / FOLDER, chunk_size=chunks.chunk_size)
