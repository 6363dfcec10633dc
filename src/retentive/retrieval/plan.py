"""Estimating the size and build time of a large datastore, with a check against published figures."""

from dataclasses import asdict, dataclass
from typing import Any

from retentive.config_types import check_kind, check_types
from retentive.retrieval.index.choice import IndexChoice, IndexConfig, choose_index

_TABLE_BYTES = 12
"""A neighbour in the table: an id of 8 bytes and a score of 4."""

_MARGIN = 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """The corpus, the machines and the rates of a plan.

    Attributes:
        tokens: Tokens of the corpus.
        chunk_size: Tokens per chunk.
        tokens_per_document: Mean length; every document ends in half a chunk that is padding.
        bytes_per_token: On disk: 2 for vocabularies up to 65,536, 4 for larger ones.
        dimension: Numbers in a vector: 768 for BERT, 384 for MiniLM.
        k: Neighbours of every chunk in the table.
        factory: FAISS factory string; ``None`` chooses as a build does.
        memory_limit: Bytes that the index may take in the memory of one machine.
        rows_per_shard: Vectors of one shard of the index.
        block_bytes: Bytes of text of one block.
        bytes_per_text_token: Bytes of text that a token stands for.
        machines: Machines or devices that work side by side, each at the rates below.
        tokenize_rate: Chunks a second (8,800 on one core, Gordon 2022).
        encode_rate: Chunks a second (1,700 for BERT on an A5000, Gordon 2022; 80 for MiniLM on two CPU cores).
        add_rate: Vectors a second that are added to the index (8,400 on one core, Gordon 2022).
        query_rate: Chunks a second whose neighbours are found (250 in batches, Wang et al. 2023).
    """

    tokens: float
    chunk_size: int = 64
    tokens_per_document: float = 1000.0
    bytes_per_token: int = 4
    dimension: int = 768
    k: int = 2
    factory: str | None = None
    memory_limit: int = 512 << 30
    rows_per_shard: int = 50_000_000
    block_bytes: int = 64 << 20
    bytes_per_text_token: float = 4.0
    machines: int = 1
    tokenize_rate: float = 8800.0
    encode_rate: float = 1700.0
    add_rate: float = 8400.0
    query_rate: float = 250.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        for name in ("tokens", "chunk_size", "tokens_per_document", "bytes_per_token", "dimension", "k", "machines"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, but is {getattr(self, name)}.")
        for name in ("tokenize_rate", "encode_rate", "add_rate", "query_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive chunks a second, but is {getattr(self, name)}.")


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and hours of a datastore.

    Attributes:
        config: The corpus and the machines.
        choice: The index.
        chunks: Chunks.
    """

    config: PlanConfig
    choice: IndexChoice
    chunks: int

    @property
    def token_bytes(self) -> int:
        """Tokens on disk, padding included."""
        return self.chunks * self.config.chunk_size * self.config.bytes_per_token

    @property
    def vector_bytes(self) -> int:
        """Vectors on disk."""
        return self.chunks * self.config.dimension * 4

    @property
    def index_bytes(self) -> int:
        """Codes or vectors in the index, ids, and centroids."""
        return self.choice.memory_bytes

    @property
    def table_bytes(self) -> int:
        """The table of neighbours."""
        return self.chunks * self.config.k * _TABLE_BYTES

    @property
    def shards(self) -> int:
        """Shards that are built apart and merged."""
        return -(-self.chunks // self.config.rows_per_shard)

    @property
    def blocks(self) -> int:
        """Blocks of chunks."""
        return max(1, round(self.config.tokens * self.config.bytes_per_text_token / self.config.block_bytes))

    def hours(self, rate: float) -> float:
        """Hours for all chunks at a rate, over all machines."""
        return self.chunks / rate / 3600 / self.config.machines

    def lines(self) -> list[str]:
        """The lines for the terminal."""
        config, choice = self.config, self.choice
        machines = f"{config.machines} machine{'' if config.machines == 1 else 's'}"
        training = choice.training_rows * config.dimension * 4
        return [
            f"chunks           {self.chunks:,} of {config.chunk_size} tokens, in {self.blocks:,} blocks",
            f"tokens           {_size(self.token_bytes)} at {config.bytes_per_token} bytes a token",
            f"vectors          {_size(self.vector_bytes)} ({config.dimension} numbers of 4 bytes)",
            f"codes            {_size(self.chunks * choice.row_bytes)} ({choice.row_bytes} bytes a vector)",
            f"index            {_size(self.index_bytes)} with ids and centroids, {choice.factory}",
            f"                 {choice.reason}",
            f"training sample  {choice.training_rows:,} random vectors, {_size(training)}",
            f"shards           {self.shards:,} of {config.rows_per_shard:,} vectors",
            f"neighbour table  {_size(self.table_bytes)} (k = {config.k})",
            f"on disk in all   {_size(self.token_bytes + self.vector_bytes + self.index_bytes + self.table_bytes)}",
            f"hours            tokenize {self.hours(config.tokenize_rate):,.0f}, encode "
            f"{self.hours(config.encode_rate):,.0f}, add {self.hours(config.add_rate):,.0f}, "
            f"neighbours {self.hours(config.query_rate):,.0f} (on {machines})",
        ]


def make_plan(config: PlanConfig) -> Plan:
    """Compute sizes and hours."""
    check_kind("config", config, PlanConfig)
    per_chunk = config.tokens / config.chunk_size
    half_chunks = config.tokens / config.tokens_per_document / 2
    chunks = round(per_chunk + half_chunks)
    index = IndexConfig(factory=config.factory, memory_limit=config.memory_limit)
    return Plan(config, choose_index(chunks, config.dimension, index), chunks)


@dataclass(frozen=True, slots=True)
class Check:
    """A published figure and the planned one.

    Attributes:
        source: Where it is published.
        quantity: Name of the figure.
        published: Its value.
        planned: Ours.
        note: Why they differ, if they do.
        is_limit: Whether the published figure is an upper limit.
    """

    source: str
    quantity: str
    published: float | int
    planned: float | int
    note: str = ""
    is_limit: bool = False

    @property
    def agrees(self) -> bool:
        """Whether they are within 15 percent of each other, or ours is below a published limit."""
        if self.is_limit:
            return self.planned <= self.published
        return 1 / _MARGIN <= self.planned / self.published <= _MARGIN

    def line(self) -> str:
        """The lines for the terminal."""
        verdict = "agrees" if self.agrees else "differs"
        note = f" ({self.note})" if self.note else ""
        below = "below " if self.is_limit else ""
        return (
            f"{self.source}: {self.quantity} {below}{self.published:.3g}, planned {self.planned:.3g}: {verdict}{note}"
        )


def check_plans() -> list[Check]:
    """The same formulas at the points that others have published.

    Borgeaud et al. 2022 (arXiv:2112.04426, sections 2.1 and 4.1, table 4), Wang et al. 2023 (arXiv:2304.06762) and
    Gordon 2022 (mitchgordon.me, RETRO is blazingly fast).
    """
    wikipedia = make_plan(PlanConfig(tokens=4e9))
    c4 = make_plan(PlanConfig(tokens=174e9, tokens_per_document=480.0))
    massive = make_plan(PlanConfig(tokens=1.75e12))
    nvidia = make_plan(PlanConfig(tokens=330e9, factory="OPQ32_256,IVF4194304_HNSW32,PQ32"))
    pile_chunks = 5.8e9
    pile = Plan(
        PlanConfig(tokens=64 * pile_chunks),
        choose_index(int(pile_chunks), 768, IndexConfig(factory="OPQ16_64,IVF1048576_HNSW32,PQ16x4fs")),
        int(pile_chunks),
    )
    retro, wang, gordon = "RETRO", "Wang et al.", "Gordon"
    return [
        Check(retro, "keys of 4B tokens of Wikipedia", 0.06e9, wikipedia.chunks),
        Check(retro, "keys of 174B tokens of C4", 2.9e9, c4.chunks),
        Check(retro, "keys of 1.75T tokens of MassiveText", 28e9, massive.chunks),
        Check(retro, "bytes for Wikipedia", 215e9, wikipedia.token_bytes + wikipedia.vector_bytes),
        Check(retro, "bytes for MassiveText", 93e12, massive.token_bytes + massive.vector_bytes),
        Check(wang, "chunks of 330B tokens", 5.3e9, nvidia.chunks),
        Check(wang, "bytes of the index", 400e9, nvidia.index_bytes, is_limit=True),
        Check(gordon, "bytes of the Pile's tokens", 1.5e12, pile.token_bytes),
        Check(gordon, "bytes of its vectors", 16 * 2**40, pile.vector_bytes),
        Check(gordon, "hours of one GPU to encode it", 1000, pile.hours(1700.0)),
        Check(gordon, "hours of one core to add it", 192, pile.hours(8400.0)),
        Check(
            gordon,
            "bytes of its index in memory",
            176e9,
            pile.index_bytes,
            "8-byte codes with 8-byte ids are 93 GB; the rest of the published figure is not explained",
        ),
    ]


@dataclass(frozen=True, slots=True)
class CheckedPlan:
    """A plan, and how the same formulas do where others have published figures.

    Attributes:
        plan: The plan.
        checks: The published figures.
    """

    plan: Plan
    checks: list[Check]

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        agreeing = sum(check.agrees for check in self.checks)
        title = f"the same formulas at published points ({agreeing} of {len(self.checks)} agree within 15 percent):"
        return [*self.plan.lines(), "", title, *(check.line() for check in self.checks)]

    def content(self) -> dict[str, Any]:
        """The plan as values that JSON has."""
        plan = self.plan
        sizes = {name: getattr(plan, name) for name in ("token_bytes", "vector_bytes", "index_bytes", "table_bytes")}
        rates = {name: getattr(plan.config, f"{name}_rate") for name in ("tokenize", "encode", "add", "query")}
        hours = {name: plan.hours(rate) for name, rate in rates.items()}
        return {"chunks": plan.chunks, "blocks": plan.blocks, **sizes, "index": asdict(plan.choice), "hours": hours}


def checked_plan(config: PlanConfig) -> CheckedPlan:
    """A plan, and how the same formulas do where others have published figures."""
    return CheckedPlan(make_plan(config), check_plans())


def _size(size: float | int) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:,.1f} {unit}" if unit != "bytes" else f"{size:,.0f} bytes"
        size /= 1000
    return f"{size:,.1f} PB"
