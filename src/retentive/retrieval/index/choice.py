"""Choosing a FAISS index by number of vectors, memory and wanted recall, with the reason in words."""

from dataclasses import dataclass, replace
from typing import Literal

from retentive.config_types import check_counts, check_types
from retentive.extras import require

FLAT_LIMIT = 50_000
"""Up to this number of vectors, an exact search takes a few milliseconds."""

HNSW_LIMIT = 5_000_000
"""Above this number of vectors, building the graph takes hours on one machine."""

HNSW_LINKS = 32
_ID_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How vectors are indexed.

    Attributes:
        kind: A name in `retentive.retrieval.index.INDEXES`; what follows is for FAISS, and for other kinds as far as
            they say so.
        factory: FAISS factory string such as ``IVF4096,SQ8``; ``None`` chooses by size, memory and recall.
        memory_limit: Bytes that the index may take in memory.
        recall: Share of the exact nearest vectors that a search should find. Search effort is raised until a sample
            reaches it.
        recall_at: Number of nearest vectors that ``recall`` is measured on.
        recall_sample: Vectors that are searched to measure it.
        on_disk: Whether inverted lists stay on disk and are mapped; ``None`` does so when codes are compressed.
        rows_per_shard: Vectors that are indexed together before shards are merged (inverted lists only).
        seed: Seed of the samples for training and for measuring.
    """

    kind: str = "faiss"
    factory: str | None = None
    memory_limit: int = 8 << 30
    recall: float = 0.95
    recall_at: int = 10
    recall_sample: int = 1000
    on_disk: bool | None = None
    rows_per_shard: int = 1 << 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if not 0 < self.recall <= 1:
            raise ValueError(f"recall must be above 0 and at most 1, but is {self.recall}.")
        check_counts(self, "memory_limit", "recall_at", "recall_sample", "rows_per_shard")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexChoice:
    """A chosen index and the reason.

    Attributes:
        factory: FAISS factory string.
        reason: One sentence.
        row_bytes: Bytes of one vector, or of its code.
        memory_bytes: Bytes of memory when all of it is in use.
        training_rows: Vectors of the random sample that it is trained on.
        effort: Name of the parameter that trades speed for recall, ``""`` for an exact index.
        on_disk: Whether inverted lists stay on disk.
        exact_again: Whether candidates are compared once more with the vectors themselves.
    """

    factory: str
    reason: str
    row_bytes: int
    memory_bytes: int
    training_rows: int
    effort: Literal["", "efSearch", "nprobe"]
    on_disk: bool
    exact_again: bool


def choose_index(rows: int, dimension: int, config: IndexConfig) -> IndexChoice:
    """Choose an index, or describe the one of a given factory string.

    Raises:
        ValueError: If a given factory needs more vectors for its training than there are.
    """
    if config.factory is not None:
        return describe_factory(config.factory, rows, dimension, config, f"chosen by factory={config.factory!r}")
    size = f"{rows:,} vectors of {dimension} numbers"
    limit = f"the memory limit of {_gigabytes(config.memory_limit)}"
    flat = 4 * rows * dimension
    if rows <= FLAT_LIMIT and flat <= config.memory_limit:
        return describe_factory("Flat", rows, dimension, config, f"{size} are few enough to compare every one")
    graph = rows * (4 * dimension + 8 * HNSW_LINKS + _ID_BYTES)
    if rows <= HNSW_LIMIT and graph <= config.memory_limit:
        reason = f"{size} and a graph over them fit {limit}, and no other index is as fast at high recall"
        return describe_factory(f"HNSW{HNSW_LINKS}", rows, dimension, config, reason)
    lists = inverted_lists(rows)
    coarse = f"IVF{lists}" if lists < 16384 else f"IVF{lists}_HNSW32"
    if rows * (dimension + _ID_BYTES) <= config.memory_limit and rows <= 50_000_000:
        reason = f"{size} fit {limit} at one byte a number, not at four"
        return describe_factory(f"{coarse},SQ8", rows, dimension, config, reason)
    code = code_bytes(dimension)
    reason = f"{size} exceed {limit}: codes of {code} bytes on disk, candidates compared again with the vectors"
    factory = f"OPQ{code}_{rotated_dimension(dimension)},{coarse},PQ{code}np"
    return describe_factory(factory, rows, dimension, config, reason)


def finer_index(choice: IndexChoice, rows: int, dimension: int, config: IndexConfig) -> IndexChoice | None:
    """The index to try where the recall of another one stays below the wanted one; ``None`` if there is none.

    Whole vectors in inverted lists are exact where all lists are searched, whatever the vectors: equal ones, which tear
    a graph apart, are in one list. A factory string that the user gave is kept.
    """
    lists = inverted_lists(rows)
    finer = f"IVF{lists},Flat"
    if config.factory is not None or choice.factory in ("Flat", finer):
        return None
    on_disk = rows * (4 * dimension + _ID_BYTES) > config.memory_limit
    reason = f"the recall of {choice.factory} on a sample is below the wanted {config.recall}"
    if on_disk:
        reason += ", and whole vectors do not fit the memory limit, so they stay on disk"
    config = replace(config, on_disk=on_disk)
    return describe_factory(finer, rows, dimension, config, reason)


def check_factory(factory: str, dimension: int) -> None:
    """Refuse a factory string that FAISS cannot build or that this library cannot describe.

    Raises:
        ValueError: If so, with FAISS's reason.
    """
    require("faiss", "a vector index")
    import faiss

    try:
        faiss.index_factory(dimension, factory, faiss.METRIC_L2)
        describe_factory(factory, 0, dimension, IndexConfig(), "")
    except (RuntimeError, ValueError) as error:
        reason = str(error).rpartition(": ")[2].strip() or str(error)
        message = f"index.factory must be a FAISS factory string for {dimension} numbers, as IVF4096,SQ8"
        raise ValueError(f"{message}, but is {factory!r} ({reason}).") from error


def vectors_needed(factory: str) -> int:
    """The fewest vectors that an index of a factory string can be trained on."""
    parts = factory.split(",")
    lists = max((int(_digits(part[3:])) for part in parts if part.startswith("IVF")), default=0)
    return max(lists, 256 if any(part.startswith("PQ") for part in parts) else 1)


def describe_factory(factory: str, rows: int, dimension: int, config: IndexConfig, reason: str) -> IndexChoice:
    """Describe a factory string: its memory, its training sample, and the parameter that sets its recall."""
    parts = factory.split(",")
    lists = next((int(_digits(part[3:])) for part in parts if part.startswith("IVF")), 0)
    product = any(part.startswith("PQ") for part in parts)
    compressed = product or "SQ" in factory or "RaBitQ" in factory
    # FAISS itself draws at most 256 vectors a centroid, and warns below 39.
    trained = 0
    if lists:
        trained = min(rows, 64 * lists if lists >= 65536 else 256 * lists)
    if compressed:
        trained = max(trained, min(rows, 65536))
    needed = vectors_needed(factory)
    if 0 < rows < needed:
        raise ValueError(f"factory {factory!r} needs at least {needed} vectors for its training, but there are {rows}.")
    per_row = 4 * dimension
    if product:
        code = next(part for part in parts if part.startswith("PQ"))
        per_row = int(_digits(code[2:])) // (2 if "x4" in code else 1)
    elif compressed:
        per_row = dimension
    rotated = next(
        (int(part.rpartition("_")[2]) for part in parts if part.startswith("OPQ") and "_" in part), dimension
    )
    links = 8 * HNSW_LINKS if factory.startswith("HNSW") else 0
    if config.on_disk and "fs" in factory:
        raise ValueError(f"on_disk must be False for factory {factory!r}: FAISS keeps packed codes in memory only.")
    effort: Literal["", "efSearch", "nprobe"] = "nprobe" if lists else "efSearch" if links else ""
    return IndexChoice(
        factory=factory,
        reason=reason,
        row_bytes=per_row,
        memory_bytes=rows * (per_row + links + (_ID_BYTES if lists else 0)) + lists * 4 * rotated,
        training_rows=trained,
        effort=effort,
        on_disk=bool(lists) and (product and "fs" not in factory if config.on_disk is None else config.on_disk),
        exact_again=compressed and "Refine" not in factory,
    )


def inverted_lists(rows: int) -> int:
    """Number of inverted lists: the bands that the FAISS project advises, ``8 * sqrt(rows)`` below them."""
    if rows < 1_000_000:
        return max(1, 1 << round(8 * max(rows, 1) ** 0.5).bit_length() - 1)
    if rows < 10_000_000:
        return 65_536
    if rows < 100_000_000:
        return 262_144
    return 1_048_576 if rows < 1_000_000_000 else 4_194_304


def code_bytes(dimension: int) -> int:
    """Bytes of a product-quantiser code: 64 for wide vectors, 32 or fewer for narrow ones."""
    wanted = 64 if dimension >= 512 else 32
    while wanted > 1 and rotated_dimension(dimension) % wanted:
        wanted //= 2
    return wanted


def rotated_dimension(dimension: int) -> int:
    """Dimensions of a vector after the learned rotation: four for a byte of code, if there are so many."""
    return min(256 if dimension >= 512 else 128, dimension)


def _digits(text: str) -> str:
    kept = ""
    for letter in text:
        if not letter.isdigit():
            break
        kept += letter
    return kept or "0"


def _gigabytes(size: int) -> str:
    return f"{size / (1 << 30):,.1f} GiB"
