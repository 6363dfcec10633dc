"""Where a run's batches come from: windows of the token store, joined with neighbours for models that read them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from torch.utils.data import DataLoader, Dataset

from retentive.data.batch import Batch, columns_of_part
from retentive.data.manifest import SPLITS, Split
from retentive.data.neighbours.batches import ChunkedWindows, OwnText, RetrievalBatches
from retentive.data.neighbours.stores import FOLDER, ChunkNeighbours, build_neighbours
from retentive.data.packing import PackedWindows
from retentive.data.streams import StreamedWindows
from retentive.data.token_store import TokenStore
from retentive.files.targets import check_folder_target
from retentive.models.protocol import ChunkedReading, FamilyConfig
from retentive.retrieval import NeighbourConfig, make_encoder
from retentive.training.processes.processes import Processes
from retentive.training.run.config import NeighbourDataConfig, TrainConfig

Parts = list[list[Batch]]
"""A process's rows of a step: a list of parts, each a list of consecutive windows."""

Reads = Literal["neighbours", "nothing", "others' neighbours", "own text"]
"""What is read beside held-out text: its neighbours, or one of three controls."""


@runtime_checkable
class BatchSource(Protocol):
    """Gives the batch of every step, a pure function of its number."""

    @property
    def batch_size(self) -> int:
        """Rows of the global batch."""
        ...

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch of a step, or one rank's share of it."""
        ...


def training_batches(model: FamilyConfig, config: TrainConfig, store: TokenStore) -> BatchSource:
    """Make the source of a run's training batches.

    Raises:
        ValueError: If the store has no token, or an option does not apply to the model.
        MismatchError: If the neighbours were found for another store or chunk size.
    """
    sizes = (config.data.window, config.data.batch_size, config.seed)
    chunks = model.chunked_reading
    if chunks is None:
        _check_no_neighbours(model, config)
        kind = PackedWindows if config.data.mode == "packed" else StreamedWindows
        return kind(store, "train", *sizes)
    found = _neighbours(chunks, config, store, "train")
    if config.data.mode == "packed":
        windows = ChunkedWindows(store, "train", *sizes, chunk_size=chunks.chunk_size)
    else:
        windows = StreamedWindows(store, "train", *sizes)
    return RetrievalBatches(
        windows,
        found,
        share_without=config.neighbours.share_without,
        own_text=OwnText() if config.neighbours.own_text_steps else None,
        seed=config.seed,
    )


def held_out_windows(
    model: FamilyConfig, config: TrainConfig, store: TokenStore, reads: Reads = "neighbours", split: Split = "heldout"
) -> tuple[BatchSource, int]:
    """Make the source of held-out batches, and count its windows.

    Args:
        model: Config of the model.
        config: Options of the run.
        store: Where the tokens are.
        reads: What a model that reads neighbours is given.
        split: ``train`` where nothing is held out.

    Raises:
        ValueError: If no document is held out.
    """
    sizes = (config.data.window, config.data.batch_size, config.seed)
    chunks = model.chunked_reading
    if chunks is None:
        packed = PackedWindows(store, split, *sizes)
        return packed, packed.windows_per_epoch
    chunked = ChunkedWindows(store, split, *sizes, chunk_size=chunks.chunk_size)
    batches = RetrievalBatches(
        chunked,
        _neighbours(chunks, config, store, split),
        share_without=1.0 if reads == "nothing" else 0.0,
        own_text=OwnText() if reads == "own text" else None,
        others=reads == "others' neighbours",
        seed=config.seed,
    )
    return batches, chunked.windows_per_epoch


def make_neighbours(model: FamilyConfig, config: TrainConfig, store: TokenStore, processes: Processes) -> None:
    """Find the neighbours of all chunks, unless they are on disk already.

    Raises:
        FileNotFoundError: If a folder is named that does not exist.
        ValueError: If the model's chunks begin elsewhere than those of the datastore, or they cannot be written.
    """
    chunks = model.chunked_reading
    if chunks is None:
        return
    if chunks.chunk_offset != 1:
        raise ValueError(
            f"model.chunk_offset must be 1, as every document is read after an end-of-text that is in no chunk of the "
            f"datastore, but is {chunks.chunk_offset}."
        )
    folder = neighbours_folder(config)
    if config.neighbours.folder is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"neighbours.folder {folder} does not exist; leave it out, and the neighbours are made in "
            f"{config.store / FOLDER}."
        )
    processes.first_does(lambda: _make_what_is_missing(chunks, config, store))


def _make_what_is_missing(chunks: ChunkedReading, config: TrainConfig, store: TokenStore) -> None:
    if any(_is_unfinished(chunks, config, store, split) for split in SPLITS):
        wanted = config.neighbours
        check_folder_target("neighbours.folder", neighbours_folder(config))
        build_neighbours(
            store,
            neighbours_folder(config),
            chunk_size=chunks.chunk_size,
            config=_table_config(wanted),
            encoder=make_encoder(wanted.encoder, wanted.model),
        )


def table_keys(model: FamilyConfig, config: TrainConfig, store: TokenStore) -> dict[str, str]:
    """Return the keys of the tables of neighbours, which identify their content; none for models that read none."""
    chunks = model.chunked_reading
    if chunks is None:
        return {}
    return {split: _neighbours(chunks, config, store, split).table.key for split in SPLITS}


def neighbours_folder(config: TrainConfig) -> Path:
    """Return the folder of a run's datastores."""
    return config.store / FOLDER if config.neighbours.folder is None else config.neighbours.folder


def _is_unfinished(chunks: ChunkedReading, config: TrainConfig, store: TokenStore, split: Split) -> bool:
    try:
        _neighbours(chunks, config, store, split)
    except FileNotFoundError:
        return True
    return False


def _neighbours(chunks: ChunkedReading, config: TrainConfig, store: TokenStore, split: Split) -> ChunkNeighbours:
    return ChunkNeighbours(
        store,
        split,
        neighbours_folder(config),
        config=_table_config(config.neighbours),
        chunk_size=chunks.chunk_size,
        aligned=config.neighbours.aligned,
        copies=config.neighbours.copies,
    )


def _table_config(wanted: NeighbourDataConfig) -> NeighbourConfig:
    return NeighbourConfig(k=wanted.k, near_duplicates=wanted.near_duplicates)


def _check_no_neighbours(model: FamilyConfig, config: TrainConfig) -> None:
    if config.neighbours != NeighbourDataConfig():
        raise ValueError(
            f"neighbours.* must be left out for a {model.family}, which reads no neighbours; train --family retro."
        )


class _Steps(Dataset[Parts]):
    """The batches of every step by number, as a dataset for worker processes."""

    def __init__(self, source: BatchSource, depth: int, parts: int, processes: Processes) -> None:
        self.source, self.depth = source, depth
        self.ranks = range(processes.row_rank * parts, (processes.row_rank + 1) * parts)
        self.world = processes.row_count * parts
        self.columns = (processes.text_rank, processes.parts_of_text)

    def __getitem__(self, step: int) -> Parts:
        numbers = range(step * self.depth, (step + 1) * self.depth)
        return [[self._batch(number, rank) for number in numbers] for rank in self.ranks]

    def _batch(self, number: int, rank: int) -> Batch:
        return columns_of_part(self.source.batch(number, rank, self.world), *self.columns)


class StepBatches:
    """This process's batches, step by step, made on demand or ahead of time by worker processes.

    Args:
        source: The batches of the whole run.
        depth: Consecutive windows of a step.
        processes: The processes that share the rows and, where they read texts in parts, the columns.
        parts: Parts that each of them cuts its rows into.
        workers: Processes that make batches ahead of time; 0 makes each on demand.
    """

    def __init__(self, source: BatchSource, *, depth: int, processes: Processes, parts: int, workers: int) -> None:
        self._place = (depth, parts, processes)
        self._workers = workers
        self._ahead: Iterator[Parts] | None = None
        self._next = -1
        self.source = source
        self._steps = _Steps(source, *self._place)

    def change_source(self, source: BatchSource) -> None:
        """Take the batches of the next steps from another source."""
        self.source = source
        self._steps = _Steps(source, *self._place)
        self._ahead = None  # what was made ahead is of the other one

    def of_step(self, step: int, last: int) -> Parts:
        """Return the batches of a step.

        Args:
            step: From 0.
            last: Steps of the run: batches beyond are not made ahead.
        """
        if not self._workers:
            return self._steps[step]
        if self._ahead is None or step != self._next:
            numbers: Sequence[int] = range(step, last)
            loader = DataLoader(self._steps, batch_size=None, sampler=numbers, num_workers=self._workers)
            self._ahead = iter(loader)
        self._next = step + 1
        return next(self._ahead)
