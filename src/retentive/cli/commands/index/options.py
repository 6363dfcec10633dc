"""The options of ``retentive index``, as values."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from retentive.config_types import check_types
from retentive.retrieval import (
    DenseEncoder,
    Encoder,
    Engine,
    IndexConfig,
    LocalEngine,
    NeighbourConfig,
    make_encoder,
)
from retentive.retrieval.encoders.protocol import parts_of
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Where the work runs.

    Args:
        engine: "local" for processes of this machine, "ray" for a Ray cluster.
        workers: Number of workers; without it, one on this machine, or one for each core of a Ray cluster.
        address: Address of a Ray cluster, as host:port; without it the one that runs on this machine, or a new one.
    """

    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.address is not None and self.engine != "ray":
            raise ValueError(f"address is of a Ray cluster, but engine is {self.engine!r}: add --engine ray.")

    def make(self) -> Engine:
        """Make the engine."""
        if self.engine == "local":
            return LocalEngine(1 if self.workers is None else self.workers)
        from retentive.retrieval.engines.ray_engine import RayEngine

        return RayEngine(address=self.address, workers=self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """How a store is made.

    Args:
        store: Folder of the store; it holds nothing else.
        tokenizer: "bytes", "encoder" (the dense encoder's), or the path of a tokenizer.json or of a folder with one, as
            "retentive prepare" and "retentive train" write it.
        end_of_text: For a tokenizer.json, the token that ends a document, where that is not plain from the file.
        chunk_size: Tokens of a chunk.
        encoder: What chunks are compared by: "lexical" (words, BM25), "dense" (vectors), "hybrid" (both), or another
            name in retentive.retrieval.ENCODERS.
        model: For dense and hybrid, folder or hub id of the encoder, as bert-base-cased.
        pooling: Vector of a chunk: "mean" of its tokens, or "cls", the first.
        stem: For lexical and hybrid, the language whose words are compared by their stems, as "english"; null compares
            whole words.
        stop_words: For lexical and hybrid, the language whose most frequent words are left out; null leaves none out.
        batch_size: Chunks that are encoded together; null takes 16 on a CPU and 128 on a GPU.
        index: How vectors are indexed; unused by the lexical encoder.
        table: Also find the neighbours of every chunk, for training.
        neighbours: How that table is made.
        block_bytes: Bytes of text in a block: the unit of work, and the most that an interruption loses.
    """

    store: Path
    tokenizer: str = "bytes"
    end_of_text: str | None = None
    chunk_size: int = 64
    encoder: str = "lexical"
    model: str | None = None
    pooling: Literal["mean", "cls"] = "mean"
    stem: str | None = None
    stop_words: str | None = None
    batch_size: int | None = None
    index: IndexConfig = field(default_factory=IndexConfig)
    table: bool = False
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)
    block_bytes: int = 1 << 20

    def make_encoder(self) -> Encoder:
        """Make the encoder."""
        options: dict[str, Any] = {}
        if self.encoder in ("dense", "hybrid"):
            options = {"pooling": self.pooling, "batch_size": self.batch_size}
        languages = {"stem": self.stem, "stop_words": self.stop_words}
        options |= {name: language for name, language in languages.items() if language is not None}
        return make_encoder(self.encoder, self.model, **options)

    def make_tokenizer(self, encoder: Encoder) -> Tokenizer:
        """Make the tokenizer.

        Args:
            encoder: That of the store, whose tokenizer can be asked for.

        Raises:
            ValueError: If the tokenizer does not go with the other options.
            FileNotFoundError: If it is no path of a tokenizer.
        """
        if self.tokenizer == "encoder":
            dense = parts_of(encoder)[1]
            if not isinstance(dense, DenseEncoder):
                raise ValueError(f"tokenizer=encoder needs encoder dense or hybrid, but encoder is {self.encoder}.")
            return dense.tokenizer
        if self.tokenizer == "bytes":
            if self.end_of_text is not None:
                raise ValueError("end_of_text is for a tokenizer.json, but tokenizer is bytes.")
            return ByteTokenizer()
        if not Path(self.tokenizer).exists():
            message = f"tokenizer must be bytes, encoder or a path, but {self.tokenizer!r} is none of them"
            raise FileNotFoundError(f"{message}.")
        from retentive.text.loading import load_tokenizer

        return load_tokenizer(self.tokenizer, end_of_text=self.end_of_text)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddConfig:
    """How documents are added.

    Args:
        store: Folder of the store.
        replace: Let a document of a known name with another text take the place of the old one.
        reindex: Make one index over everything afterwards; otherwise each addition is a part of its own.
        table: Find the neighbours of every chunk again, for training.
        neighbours: How that table is made.
    """

    store: Path
    replace: bool = False
    reindex: bool = False
    table: bool = False
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncConfig:
    """How a store is kept in line with its source.

    Args:
        store: Folder of the store.
        watch: Go on until Ctrl-C, and sync whenever a file appears, changes or goes.
        seconds: With watch, the time between two looks at the source.
        table: Find the neighbours of every chunk again, for training.
        neighbours: How that table is made.
    """

    store: Path
    watch: bool = False
    seconds: float = 2.0
    table: bool = False
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.seconds <= 0:
            raise ValueError(f"seconds must be positive, but is {self.seconds}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeStoreConfig:
    """How a store is served.

    Args:
        store: Folder of the store.
        host: Address to listen at; that of this machine, unless writable is false.
        port: Port to listen at.
        stdio: Speak MCP over standard input and output, for an assistant that starts this command itself.
        writable: Whether documents may be added and removed.
        reranker: Folder of the model by which requests may have answers judged again: a cross-encoder, or an encoder
            for late interaction; null reads with the encoder of the store.
    """

    store: Path
    host: str = "127.0.0.1"
    port: int = 8788
    stdio: bool = False
    writable: bool = True
    reranker: Path | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port must be from 1 to 65535, but is {self.port}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexConfig:
    """What is made again.

    Args:
        store: Folder of the store.
        table: Find the neighbours of every chunk again too, for training.
        neighbours: How that table is made.
    """

    store: Path
    table: bool = False
    neighbours: NeighbourConfig = field(default_factory=NeighbourConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateStoreConfig:
    """What answers are measured by.

    Args:
        queries: File of queries: a name, a tab and the text a line.
        judgements: File of TREC's qrels: query, 0, document and relevance a line, relevance above 0 for right ones.
        store: Folder of the store.
        depth: Documents that are asked for, for each query.
        rerank: Have a model read the first answers of the indexes beside the query; better and slower.
        reranker: Folder of that model: a cross-encoder, or an encoder for late interaction; null reads with the
            encoder of the store.
        run: File to write the ranking to, as TREC's runs; other tools measure those too.
    """

    queries: Path
    judgements: Path
    store: Path
    depth: int = 100
    rerank: bool = False
    reranker: Path | None = None
    run: Path | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.reranker is not None and not self.rerank:
            raise ValueError("reranker is the model that rerank reads with: add --rerank.")


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
