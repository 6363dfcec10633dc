"""The datastores of a token store: its training text in chunks, and the neighbours of every chunk.

All neighbours come from the training documents, also those of held-out chunks. Everything lies in one folder:
``train`` and ``heldout``, each a `Datastore` of the documents of that split with its table of neighbours.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from retentive.data.manifest import SPLITS, Split
from retentive.data.neighbours.aligned import aligned as aligned_windows
from retentive.data.token_store import TokenStore
from retentive.errors import MismatchError
from retentive.retrieval import MISSING, Datastore, Encoder, Engine, NeighbourConfig, NeighbourTable
from retentive.retrieval.passages import NO_TOKEN

FOLDER = "neighbours"
"""Default folder of the datastores within the token store."""


def build_neighbours(
    store: TokenStore,
    folder: Path,
    *,
    config: NeighbourConfig | None = None,
    chunk_size: int,
    encoder: Encoder | None = None,
    engine: Engine | None = None,
) -> None:
    """Build the datastores of a token store and the neighbours of all chunks, or resume an interrupted build.

    Args:
        store: The token store; its documents are chunked with its tokenizer.
        folder: Folder of the datastores.
        chunk_size: Tokens per chunk, as in the model's config.
        config: Number of neighbours, and which chunks are excluded.
        encoder: How chunks are compared; None compares words (BM25).
        engine: Where the work runs; None is this process.

    Raises:
        ValueError: If a document cannot be used, for example because two have one name.
        OSError: If the disk is full; finished blocks are kept.
    """
    made = {
        split: Datastore.build(
            _documents(store, split),
            folder / split,
            tokenizer=store.tokenizer,
            chunk_size=chunk_size,
            encoder=encoder,
            engine=engine,
        )
        for split in SPLITS
    }
    for split in SPLITS:
        made[split].build_neighbours(config, database=_other(split, made["train"]), engine=engine)


def find_neighbours(store: TokenStore, split: Split, folder: Path, *, chunk_size: int, config: NeighbourConfig) -> None:
    """Build the neighbour table of a split; builds the datastores first if there are none.

    Args:
        store: The token store.
        split: The split whose chunks need neighbours.
        folder: Folder of the datastores.
        chunk_size: Tokens per chunk, as in the model's config.
        config: Number of neighbours, and which chunks are excluded.

    Raises:
        MismatchError: If the datastores have another tokenizer or chunk size.
    """
    try:
        queries, train = (open_datastore(folder / name, store, chunk_size) for name in (split, "train"))
    except FileNotFoundError:
        build_neighbours(store, folder, chunk_size=chunk_size, config=config)
        return
    queries.build_neighbours(config, database=_other(split, train))


def _documents(store: TokenStore, split: Split) -> Iterator[tuple[str, str]]:
    tokens, offsets = store.tokens(split), store.document_offsets(split)
    for number, name in enumerate(store.document_names(split)):
        # Without end-of-text, which is not part of the document's text.
        yield name, store.tokenizer.decode(tokens[offsets[number] : offsets[number + 1] - 1].tolist())


def _other(split: Split, train: Datastore) -> Datastore | None:
    return None if split == "train" else train


class ChunkNeighbours:
    """The neighbours of a split's chunks, read from a neighbour table on disk.

    Args:
        store: The tokens.
        split: The split whose chunks are looked up.
        folder: Folder that `build_neighbours` wrote.
        config: Config of the table.
        chunk_size: Tokens per chunk, as in the model's config.
        database: Another datastore than the one of the training documents; its table must have been made with
            ``Datastore.build_neighbours(config, database=...)``.
        aligned: Shift each neighbour so that its longest run in common with the chunk stands at the chunk's own place;
            see `retentive.data.neighbours.aligned`.
        copies: With ``aligned``: shift copies of chunks of the same document too.

    Raises:
        FileNotFoundError: If there is no datastore, or no table for its version.
        MismatchError: If it has another tokenizer or chunk size, or other documents than the token store.
        DamagedFileError: If a file is not what it should be.
    """

    def __init__(
        self,
        store: TokenStore,
        split: Split,
        folder: Path,
        *,
        config: NeighbourConfig | None = None,
        database: Path | None = None,
        chunk_size: int,
        aligned: bool = False,
        copies: bool = False,
    ) -> None:
        self._arguments = (store, split, folder, config, chunk_size, database, aligned, copies)
        queries = open_datastore(folder / split, store, chunk_size)
        searched = folder / "train" if database is None else database
        other = None if searched == folder / split else open_datastore(searched, store, chunk_size)
        self.table: NeighbourTable = queries.neighbours(config, database=other)
        self.database = queries if other is None else other
        self.chunk_size, self.k, self.aligned, self.copies = chunk_size, self.table.k, aligned, copies
        self._tokens, self._offsets = store.tokens(split), store.document_offsets(split)
        self._corpus, self._names = queries.corpus, store.document_names(split)
        self._first_chunks = self._joined(queries, f"{split!r} of {store.folder}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the paths; the other process opens them again."""
        return _opened, self._arguments

    def ids(self, document: int, numbers: Int64[np.ndarray, "chunks"]) -> Int64[np.ndarray, "chunks"]:
        """Ids in the datastore of chunks that are given by document and number within it."""
        return self._first_chunks[document] + numbers

    def tokens(
        self, documents: Int64[np.ndarray, "*shape"], numbers: Int64[np.ndarray, "*shape"]
    ) -> Int64[np.ndarray, "*shape k length"]:
        """Neighbours of chunks, each with its continuation.

        Args:
            documents: Number of each chunk's document in the split, -1 where there is no chunk.
            numbers: Number of each chunk in its document.

        Returns:
            Token ids, -1 where there is no token.

        Raises:
            MismatchError: If the text of a chunk is not that of the token store.
        """
        there = documents >= 0
        ids = np.where(there, self._first_chunks[np.maximum(documents, 0)] + numbers, MISSING)
        chunks = self._checked_chunks(documents[there], numbers[there], ids[there])
        if not self.aligned:
            return self.table.tokens(ids)
        found = np.full((*documents.shape, self.k, 2 * self.chunk_size), NO_TOKEN, dtype=np.int64)
        texts = {document: self._whole_chunks(document) for document in np.unique(documents[there]).tolist()}
        moved = aligned_windows(self.table, ids[there], chunks, documents[there], texts, copies=self.copies)
        found[there] = moved
        return found

    def text(
        self, documents: Int64[np.ndarray, "_"], begins: Int64[np.ndarray, "_"], length: int
    ) -> Int64[np.ndarray, "_ length"]:
        """Tokens of documents from a position on; -1 outside of a document."""
        places = begins[:, None] + np.arange(length)
        ends = np.diff(self._offsets)[documents] - 1  # without end-of-text
        inside = (places >= 0) & (places < ends[:, None])
        found = self._tokens[self._offsets[documents][:, None] + np.where(inside, places, 0)]
        return np.where(inside, found.astype(np.int64), NO_TOKEN)

    def _whole_chunks(self, document: int) -> Int64[np.ndarray, "chunks length"]:
        begin, end = self._offsets[document : document + 2].tolist()
        count = (end - 1 - begin) // self.chunk_size
        text = self._tokens[begin : begin + count * self.chunk_size]
        return text.astype(np.int64).reshape(count, self.chunk_size)

    def _checked_chunks(
        self, documents: np.ndarray, numbers: np.ndarray, ids: np.ndarray
    ) -> Int64[np.ndarray, "_ length"]:
        """The tokens of chunks, which have to be those of the datastore."""
        begins = self._offsets[documents] + numbers * self.chunk_size
        ours = self._tokens[begins[:, None] + np.arange(self.chunk_size)]
        differs = (self._corpus.tokens(ids) != ours).any(1)
        if differs.any():
            first = int(np.flatnonzero(differs)[0])
            raise MismatchError(
                f"chunk {int(numbers[first])} of {self._names[documents[first]]!r} must be the same in the datastore "
                f"{self._corpus.folder} as in the token store, but is not: it is of another version of the text; "
                "build it again in another folder."
            )
        return ours.astype(np.int64)

    def _joined(self, queries: Datastore, where: str) -> Int64[np.ndarray, "documents"]:
        """The first chunk of each document of the token store, by its name in the datastore."""
        corpus = queries.corpus
        first_rows = [
            corpus.arrays(block)["first_rows"].astype(np.int64) + corpus.first_chunks[block]
            for block in range(len(corpus.blocks))
        ]
        begins = np.concatenate([np.zeros(0, np.int64), *(rows[:-1] for rows in first_rows)])
        counts = np.concatenate([np.zeros(0, np.int64), *(np.diff(rows) for rows in first_rows)])
        numbers = {name: number for number, name in corpus.names()}
        wanted = -(-(np.diff(self._offsets) - 1) // self.chunk_size)
        found = np.array([numbers.get(name, MISSING) for name in self._names], dtype=np.int64)
        wrong = _wrong(found, counts, wanted)
        if wrong.any():
            name = self._names[int(np.flatnonzero(wrong)[0])]
            raise MismatchError(
                f"the datastore {corpus.folder} must have every document of {where}, but {name!r} is missing there or "
                "has another length: it is of another version of the text; build it again in another folder."
            )
        return begins[found]


def _wrong(found: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> Bool[np.ndarray, "documents"]:
    absent = found < 0
    return absent | (np.append(counts, 0)[found] != wanted)


def _opened(
    store: TokenStore,
    split: Split,
    folder: Path,
    config: NeighbourConfig | None,
    chunk_size: int,
    database: Path | None,
    is_aligned: bool,
    has_copies: bool,
) -> ChunkNeighbours:
    kinds = {"aligned": is_aligned, "copies": has_copies}
    return ChunkNeighbours(store, split, folder, config=config, chunk_size=chunk_size, database=database, **kinds)


def open_datastore(folder: Path, store: TokenStore, chunk_size: int) -> Datastore:
    """Open a datastore for a model that was trained on a token store.

    Raises:
        FileNotFoundError: If there is none.
        MismatchError: If it has another tokenizer, or another chunk size than the model.
    """
    found = Datastore.open(folder, tokenizer=store.tokenizer)
    if found.chunk_size != chunk_size:
        raise MismatchError(
            f"the datastore {folder} must have the model's chunk_size, {chunk_size}, but has {found.chunk_size}; set "
            f"model.chunk_size={found.chunk_size}, or build it with chunk_size={chunk_size} in another folder."
        )
    return found
