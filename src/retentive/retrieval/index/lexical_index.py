"""The BM25 index: one tantivy segment for a run of blocks, and all segments opened as one index.

tantivy gives segments random names and keeps them in one folder that it rewrites. Here each segment is built by one
thread in a folder of its own and gets fixed names, so that its bytes are a pure function of its text. Opening links all
segments into a temporary folder and writes the list that tantivy reads there. A store can thus be read-only, a segment
is never rewritten, and additions add segments. Word statistics are those of all segments together.
"""

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from retentive.errors import DamagedFileError
from retentive.files import read_json
from retentive.retrieval.blocks.sealed_folder import MEND, folder_record, sealed_folder
from retentive.retrieval.encoders.protocol import WordCounts
from retentive.retrieval.index.protocol import Ranking
from retentive.retrieval.manifest import FolderRecord

if TYPE_CHECKING:
    import tantivy

LEXICAL = "lexical"
FIELD = "words"
ROWS_PER_SEGMENT = 1 << 20
"""Chunks of a segment: fewer segments search faster, smaller ones are cheaper to rebuild when damaged."""

_PARTS = ("term", "idx", "pos", "fieldnorm", "fast", "store")
_HEAP_BYTES = 1 << 30


def schema() -> "tantivy.Schema":
    """The schema: one field of words that are already split, with counts and without positions."""
    from tantivy import SchemaBuilder

    builder = SchemaBuilder()
    builder.add_text_field(FIELD, stored=False, tokenizer_name="whitespace", index_option="freq")
    return builder.build()


def write_segment(
    folder: Path, key: str, rows: Sequence[WordCounts], *, first_block: int, num_blocks: int
) -> FolderRecord:
    """Build the segment of a run of blocks.

    Args:
        folder: Folder of the store.
        key: Name of the segment.
        rows: Words of each chunk, in the order of ids.
        first_block: First block that it covers.
        num_blocks: Number of blocks that it covers.
    """
    from tantivy import Document, Index

    with sealed_folder(folder, LEXICAL, key) as temporary, tempfile.TemporaryDirectory() as building:
        index = Index(schema(), path=building)
        # One thread: with more, the order of chunks is random.
        writer = index.writer(heap_size=_HEAP_BYTES, num_threads=1)
        for words in rows:
            text = " ".join(" ".join([word] * count) for word, count in words.items())
            writer.add_document(Document(**{FIELD: text}))
        writer.commit()
        writer.wait_merging_threads()
        listed = json.loads((Path(building) / "meta.json").read_bytes())
        if len(listed["segments"]) != 1 or listed["segments"][0]["max_doc"] != len(rows):
            found = [segment["max_doc"] for segment in listed["segments"]]
            raise RuntimeError(f"tantivy made segments of {found} chunks where one of {len(rows)} was expected.")
        name = listed["segments"][0]["segment_id"].replace("-", "")
        for part in _PARTS:
            content = (Path(building) / f"{name}.{part}").read_bytes()
            (temporary / part).write_bytes(content)
        settings = {"rows": len(rows), "index_settings": listed["index_settings"], "schema": listed["schema"]}
        (temporary / "segment.json").write_text(json.dumps(settings, sort_keys=True) + "\n")
    record = folder_record(folder, LEXICAL, key, first_block=first_block, num_blocks=num_blocks)
    assert record is not None, "a folder that was just sealed is undamaged"
    return record


class LexicalIndex:
    """All segments of a store as one index.

    Args:
        folder: Folder of the store.
        segments: Their records.
        first_chunks: First chunk of each block of the store, and the number of all chunks.
        threads: Number of queries that are searched in parallel.

    Raises:
        DamagedFileError: If tantivy cannot open a segment or finds another number of chunks.
    """

    def __init__(
        self, folder: Path, segments: Sequence[FolderRecord], first_chunks: Int64[np.ndarray, "_"], threads: int = 2
    ) -> None:
        self._segments = list(segments)
        self._offsets = np.array([first_chunks[segment.first_block] for segment in segments], dtype=np.int64)
        self._threads = threads
        expected = sum(
            int(first_chunks[segment.first_block + segment.num_blocks] - first_chunks[segment.first_block])
            for segment in segments
        )
        self._num_chunks = expected
        self._schema = schema()
        self._searcher = None if expected == 0 else self._open(folder)

    def _open(self, folder: Path) -> "tantivy.Searcher":
        from tantivy import Index

        # tantivy maps all files when it opens, after which the links can be removed.
        with _temporary_folder() as links:
            listed: list[dict[str, Any]] = []
            settings: dict[str, Any] = {}
            for number, segment in enumerate(self._segments):
                place = (folder / LEXICAL / segment.key).absolute()
                settings = _read_settings(place)
                name = uuid.UUID(int=number + 1)
                for part in _PARTS:
                    (Path(links) / f"{name.hex}.{part}").symlink_to(place / part)
                listed.append({"segment_id": str(name), "max_doc": settings["rows"], "deletes": None})
            content = {"index_settings": settings["index_settings"], "schema": settings["schema"]}
            (Path(links) / "meta.json").write_text(json.dumps(content | {"segments": listed, "opstamp": 0}))
            try:
                index = Index.open(links)
                index.config_reader("manual")  # the segments never change, so they need not be watched
                searcher = index.searcher()
            except Exception as error:  # tantivy raises ValueError, OSError and its own panics
                raise _damaged(folder / LEXICAL, error) from error
        if searcher.num_docs != self._num_chunks:
            raise _damaged(folder / LEXICAL, f"it has {searcher.num_docs} chunks, not {self._num_chunks}")
        return searcher

    def search(self, queries: Sequence[WordCounts], k: int) -> Ranking:
        """The ``k`` chunks of highest BM25 score for each query; chunks without a common word are no answers."""
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        if self._searcher is None or k == 0:
            return scores, ids

        def one(row: int) -> None:
            hits = self._hits(queries[row], k)
            for place, (score, address) in enumerate(hits):
                scores[row, place] = score
                ids[row, place] = self._offsets[address.segment_ord] + address.doc

        if len(queries) < 2 * self._threads or self._threads == 1:
            for row in range(len(queries)):
                one(row)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                # In batches: passing single queries to threads costs more than many of the searches.
                runs = [range(begin, min(begin + 32, len(queries))) for begin in range(0, len(queries), 32)]
                list(pool.map(lambda run: [one(row) for row in run], runs))
        return scores, ids

    def _hits(self, words: WordCounts, k: int) -> "list[tuple[float, tantivy.DocAddress]]":
        from tantivy import Occur, Query

        assert self._searcher is not None
        clauses: list[tuple[Any, Any]] = []
        for word, count in words.items():
            term = Query.term_query(self._schema, FIELD, word, "freq")
            clauses.append((Occur.Should, term if count == 1 else Query.boost_query(term, float(count))))
        if not clauses:
            return []
        return self._searcher.search(Query.boolean_query(clauses), min(k, self._num_chunks), count=False).hits


def _read_settings(place: Path) -> dict[str, Any]:
    """Read the description that `write_segment` wrote: number of rows, and tantivy's settings and schema."""
    try:
        settings = read_json(place / "segment.json", cure=MEND)
    except OSError as error:
        raise _damaged(place, error) from error
    if missing := {"rows", "index_settings", "schema"} - settings.keys():
        raise _damaged(place, f"segment.json lacks {', '.join(sorted(missing))}")
    return settings


@contextmanager
def _temporary_folder() -> Generator[str]:
    folder = tempfile.mkdtemp(prefix="retentive-lexical-")
    try:
        yield folder
    finally:
        # A thread of tantivy may still create its lock file in the folder after it was emptied.
        for _ in range(50):
            shutil.rmtree(folder, ignore_errors=True)
            if not Path(folder).exists():
                break
            time.sleep(0.01)


def _damaged(place: Path, reason: object) -> DamagedFileError:
    return DamagedFileError(f"the lexical index {str(place)!r} cannot be opened ({reason}): {MEND}.")
