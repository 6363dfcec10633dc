"""A trained model on held-out documents: what ``retentive evaluate`` does."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from retentive.checkpoints.devices import chosen_device
from retentive.checkpoints.manifest import read_manifest
from retentive.checkpoints.model_card import save_model_card
from retentive.checkpoints.weights import load_model
from retentive.config_types import check_counts, check_kind, check_types
from retentive.data.manifest import Split
from retentive.data.neighbours.batches import FindsNeighbours
from retentive.data.neighbours.stores import FOLDER, ChunkNeighbours, find_neighbours
from retentive.data.token_store import TokenStore
from retentive.evaluation.measures.bits_per_byte import BitsPerByte, DocumentTally, bits_per_byte_in_windows
from retentive.evaluation.measures.documents import Documents, select_documents
from retentive.evaluation.measures.loss_by_position import LossByPosition, PositionTally
from retentive.evaluation.measures.machine import describe_machine
from retentive.evaluation.measures.scoring import score_in_one_pass
from retentive.files import write_atomically
from retentive.files.progress import ProgressBar
from retentive.files.targets import check_file_target, check_folder_target
from retentive.models.protocol import LanguageModel
from retentive.retrieval import NeighbourConfig
from retentive.training.run.first_model import check_tokenizer, say_if_unknown

FORMAT = "retentive evaluation"
FORMAT_VERSION = 1
OUTPUT_FILE = "evaluation.json"


# No slots here: the command line's parser reads defaults through a config's ``__dict__``.
@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a trained model on documents that it has not seen.

    Attributes:
        checkpoint: Folder of the model, as "retentive train" wrote it.
        store: Folder that "retentive prepare" wrote, with the tokenizer that the model was trained with.
        output: JSON file for the results; null writes "evaluation.json" into the model's folder.
        split: "heldout", or "train" to see how well the model fits its training text.
        window: Tokens that are read together, each window beginning with an empty memory.
        stride: Tokens from the begin of one window to the next; each token is scored once.
        one_pass: Also read every document from begin to end with the state carried along, which gives bits per byte
            once more and the loss by position. A Transformer's memory and work grow with the length of a document.
        chunk_size: Tokens read in one call of that pass. Changes speed and memory, never results.
        batch_size: Windows or documents side by side. Changes speed and memory, never results.
        max_documents: Documents at most, a random sample that is always the same; null takes all.
        max_bytes: Bytes of text at most, in whole documents of such a sample; null takes all.
        max_document_bytes: Documents above this size in bytes are left out; null leaves out none.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        neighbours: For a RETRO: read neighbours, those that "retentive train" found for the store. Missing ones are
            looked for now, among the store's training documents.
        k: Neighbours of each chunk; may differ from training.
        near_duplicates: As in training, "neighbours.near_duplicates".
        neighbours_folder: Folder of the datastores; null is "neighbours" in the store's folder.
    """

    checkpoint: Path
    store: Path
    output: Path | None = None
    split: Split = "heldout"
    window: int = 2048
    stride: int = 1024
    one_pass: bool = True
    chunk_size: int = 1024
    batch_size: int = 8
    max_documents: int | None = None
    max_bytes: int | None = None
    max_document_bytes: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    neighbours: bool = False
    k: int = 2
    near_duplicates: float | None = None
    neighbours_folder: Path | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        check_counts(self, "window", "stride", "chunk_size", "batch_size")
        if self.stride > self.window:
            raise ValueError(
                f"stride must be at most window = {self.window} tokens, so that every token is scored, but is "
                f"{self.stride}."
            )
        for name in ("max_documents", "max_bytes", "max_document_bytes"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, or null for all, but is {limit}.")
        for name, nothing in (("k", 2), ("near_duplicates", None), ("neighbours_folder", None)):
            if getattr(self, name) != nothing and not self.neighbours:
                raise ValueError(f"{name} means nothing without neighbours; add --neighbours.")
        _ = self.wanted_neighbours  # makes the config, which validates these options

    @property
    def wanted_neighbours(self) -> NeighbourConfig:
        """The options of the neighbours, for a model that reads them."""
        return NeighbourConfig(k=self.k, near_duplicates=self.near_duplicates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured of one model.

    Attributes:
        windows: Bits per byte of windows that each begin with an empty memory.
        one_pass: Bits per byte with the state carried through each document; None if not asked for.
        by_position: Loss by position, of the same pass.
    """

    windows: BitsPerByte
    one_pass: BitsPerByte | None
    by_position: LossByPosition | None

    @property
    def bits_per_byte(self) -> tuple[BitsPerByte, ...]:
        """The results of all ways of measuring."""
        return (self.windows,) if self.one_pass is None else (self.windows, self.one_pass)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """An evaluation with all that its numbers depend on.

    Attributes:
        family: Of the model.
        parameters: Number of its weights.
        tokenizer: Kind of tokenizer, and its number of ids.
        neighbours: Describes which neighbours it read; empty for a model that reads none.
        evaluation: The numbers.
        machine: The machine and the software, as `describe_machine` gives them.
        output: The JSON file.
        seconds: Duration of everything, loading included.
    """

    family: str
    parameters: int
    tokenizer: str
    neighbours: str
    evaluation: Evaluation
    machine: dict[str, str]
    output: Path
    seconds: float

    def lines(self) -> list[str]:
        """The report as lines for a terminal."""
        measured = self.evaluation.windows
        lines = [
            f"{self.family}, {self.parameters:,} parameters, on {measured.coverage}",
            f"  {measured.tokens:,} tokens scored, {measured.bytes:,} bytes; tokenizer {self.tokenizer}",
            *([f"  {self.neighbours}"] if self.neighbours else []),
            "",
            f"  {'method':<34}{'bits per byte':>20}{'nats per token':>16}{'seconds':>10}",
        ]
        for result in self.evaluation.bits_per_byte:
            error = "" if result.standard_error is None else f" ± {result.standard_error:.4f}"
            lines.append(
                f"  {_way(result):<34}{f'{result.bits_per_byte:.4f}{error}':>20}{result.nats_per_token:>16.4f}"
                f"{result.seconds:>10.1f}"
            )
        if self.evaluation.by_position is not None:
            lines += ["", f"  {'tokens read before':<34}{'nats per token':>20}{'tokens':>16}{'documents':>10}"]
            for bucket in self.evaluation.by_position.buckets:
                error = "" if bucket.standard_error is None else f" ± {bucket.standard_error:.4f}"
                reach = f"{bucket.first:,} to {bucket.last:,}" if bucket.last > bucket.first else f"{bucket.first:,}"
                loss = f"{bucket.nats_per_token:.4f}{error}"
                lines.append(f"  {reach:<34}{loss:>20}{bucket.tokens:>16,}{bucket.documents:>10,}")
        lines += ["", f"± is one standard error, over documents. {self.seconds:,.1f} s. Written to {self.output}"]
        return lines


def _way(result: BitsPerByte) -> str:
    if result.method == "one_pass":
        return "one pass, state carried along"
    return f"windows of {result.window:,}, stride {result.stride:,}"


def evaluate(config: EvaluateConfig) -> EvaluationReport:
    """Measure a saved model on a token store, and write the numbers down.

    Raises:
        FileNotFoundError: If there is no such model or store.
        MismatchError: If the model was trained with another tokenizer.
        DamagedFileError: If the model or the store is damaged.
        ValueError: If an option is out of range, or there is nothing to score.
    """
    check_kind("config", config, EvaluateConfig)
    begin = time.perf_counter()
    device = chosen_device(config.device)
    store = TokenStore.open(config.store)
    check_tokenizer(config.checkpoint, store)
    say_if_unknown(config.checkpoint, store)
    output = config.checkpoint / OUTPUT_FILE if config.output is None else config.output
    check_file_target("output", output, suggestion=OUTPUT_FILE)
    store.verify(config.split)
    documents = select_documents(
        store,
        split=config.split,
        max_documents=config.max_documents,
        max_bytes=config.max_bytes,
        max_document_bytes=config.max_document_bytes,
    )
    model = load_model(config.checkpoint, device)
    evaluation = evaluate_model(
        model,
        documents,
        neighbours=_found(config, model, store),
        window=config.window,
        stride=config.stride,
        one_pass=config.one_pass,
        chunk_size=config.chunk_size,
        batch_size=config.batch_size,
    )
    report = EvaluationReport(
        family=model.config.family,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokenizer=f"{store.manifest.tokenizer.name} ({store.manifest.tokenizer.vocab_size:,} ids)",
        neighbours=_read(model, config),
        evaluation=evaluation,
        machine=describe_machine(device),
        output=output,
        seconds=time.perf_counter() - begin,
    )
    _write(report, config)
    return report


def evaluate_model(
    model: LanguageModel,
    documents: Documents,
    *,
    window: int = 2048,
    stride: int = 1024,
    one_pass: bool = True,
    chunk_size: int = 1024,
    batch_size: int = 8,
    neighbours: FindsNeighbours | None = None,
    label: str = "evaluate",
) -> Evaluation:
    """Measure a model, with progress on standard error; for the arguments see `EvaluateConfig`.

    Args:
        model: The model to measure; it stays in the mode it is in (training or evaluation).
        documents: As `select_documents` gives them.
        window: Tokens read together.
        stride: Tokens from window to window.
        one_pass: Also in one pass with the carried state, and the loss by position.
        chunk_size: Tokens read in one call of that pass.
        batch_size: Windows or documents side by side.
        neighbours: Finds the neighbours of every chunk, for models that read them.
        label: Text before the progress bar.

    Raises:
        MismatchError: If the model lacks some token ids.
        ValueError: If a number is out of range, or there is nothing to score.
    """
    with ProgressBar(f"{label}: windows", total=documents.num_scored, unit="tokens") as progress:
        windows = bits_per_byte_in_windows(
            model,
            documents,
            window=window,
            stride=stride,
            batch_size=batch_size,
            neighbours=neighbours,
            on_tokens=progress.advance,
        )
    if not one_pass:
        return Evaluation(windows=windows, one_pass=None, by_position=None)
    begin = time.perf_counter()
    tally, positions = DocumentTally(documents), PositionTally(documents)
    with ProgressBar(f"{label}: one pass", total=documents.num_scored, unit="tokens") as progress:
        passes = score_in_one_pass(
            model, documents, chunk_size=chunk_size, batch_size=batch_size, neighbours=neighbours
        )
        for scored in passes:
            tally.add(scored)
            positions.add(scored)
            progress.advance(len(scored.token))
    seconds = time.perf_counter() - begin
    return Evaluation(
        windows=windows,
        one_pass=tally.result("one_pass", seconds=seconds),
        by_position=positions.result(seconds=seconds),
    )


def _found(config: EvaluateConfig, model: LanguageModel, store: TokenStore) -> ChunkNeighbours | None:
    if not config.neighbours:
        return None
    chunks = model.chunked_reading
    if chunks is None:
        raise ValueError(f"neighbours must be left out for a {model.config.family}, which reads none.")
    folder = config.store / FOLDER if config.neighbours_folder is None else config.neighbours_folder
    if config.neighbours_folder is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"neighbours_folder {folder} does not exist; leave it out, and the neighbours are those in "
            f"{config.store / FOLDER}."
        )
    size, wanted = chunks.chunk_size, config.wanted_neighbours
    try:
        return ChunkNeighbours(store, config.split, folder, config=wanted, chunk_size=size)
    except FileNotFoundError:
        check_folder_target("neighbours_folder", folder)
        find_neighbours(store, config.split, folder, chunk_size=size, config=wanted)
    return ChunkNeighbours(store, config.split, folder, config=wanted, chunk_size=size)


def _read(model: LanguageModel, config: EvaluateConfig) -> str:
    """Whether neighbours were read, in words."""
    if model.chunked_reading is None:
        return ""
    return (
        f"{config.k} neighbours of each chunk" if config.neighbours else "without neighbours (--neighbours reads them)"
    )


def _write(report: EvaluationReport, config: EvaluateConfig) -> None:
    def plain(value: Any) -> str:
        return str(value)  # paths

    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "weights": read_manifest(config.checkpoint).weights_digest,
        "config": asdict(config),
        **asdict(report),
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False, default=plain) + "\n"
    report.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(report.output, text.encode("utf-8"))
    if report.output == config.checkpoint / OUTPUT_FILE:
        save_model_card(config.checkpoint)
