"""The BM25 index: one tantivy segment for a run of blocks, and all segments opened as one index.

tantivy gives segments random names and keeps them in one folder that it rewrites. Here each segment is built by one
thread in a folder of its own and gets fixed names, so that its bytes are a pure function of its text. Opening links all
segments into a temporary folder and writes the list that tantivy reads there. A store can thus be read-only, and a
segment is never rewritten: where documents were removed another one without them takes its place. Word statistics are
those of all segments together, and so of the text that can be found.
"""

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from retentive.errors import DamagedFileError
from retentive.extras import require
from retentive.files import explain_full_disk, full_disk, read_json
from retentive.retrieval.blocks.sealed_folder import MEND, check_folder, folder_record, sealed_folder
from retentive.retrieval.encoders.protocol import WordCounts
from retentive.retrieval.index.protocol import Ranking
from retentive.retrieval.manifest import FolderRecord

if TYPE_CHECKING:
    import tantivy

LEXICAL = "lexical"
FIELD = "words"
PART_CHARACTERS = 1 << 25
"""Characters of words in a part of a segment: what is held in memory while it is built."""

_FILES = ("term", "idx", "pos", "fieldnorm", "fast", "store")
_HEAP_BYTES = 1 << 30  # tantivy divides a segment where this is not enough
_LEAST_ROOM = 1 << 20
"""Free bytes below which a disk is full, where tantivy does not say what went wrong."""
_IDS = "chunks"
"""File with the number in the run of each chunk of a segment, where some were left out."""


def schema() -> "tantivy.Schema":
    """The schema: one field of words that are already split, with counts and without positions."""
    from tantivy import SchemaBuilder

    builder = SchemaBuilder()
    builder.add_text_field(FIELD, stored=False, tokenizer_name="whitespace", index_option="freq")
    return builder.build()


def write_segment(
    folder: Path, key: str, words: Iterable[WordCounts], kept: Int64[np.ndarray, "_"], *, run: tuple[int, int]
) -> FolderRecord:
    """Build the segment of a run of blocks.

    Args:
        folder: Folder of the store.
        key: Name of the segment.
        words: Words of each chunk that is kept, in the order of ids.
        kept: Their numbers in the run.
        run: First block that the segment covers, and how many.
    """
    require("tantivy", "a lexical index")
    with sealed_folder(folder, LEXICAL, key) as temporary, explain_full_disk(folder):
        sizes: list[int] = []
        settings: dict[str, Any] = {"index_settings": {}, "schema": []}
        rows = iter(words)
        while (first := next(rows, None)) is not None:
            part = _Part(chain((first,), rows))
            settings = _write_part(temporary, len(sizes), part)
            sizes.append(part.count)
        if sum(sizes) != len(kept):
            raise RuntimeError(f"the encoder must give words of {len(kept)} chunks, but gave those of {sum(sizes)}.")
        if not np.array_equal(kept, np.arange(len(kept))):
            (temporary / _IDS).write_bytes(kept.astype("<i8").tobytes())
        (temporary / "segment.json").write_text(json.dumps({"parts": sizes, **settings}, sort_keys=True) + "\n")
    record = folder_record(folder, LEXICAL, key, first_block=run[0], num_blocks=run[1])
    assert record is not None, "a folder that was just sealed is undamaged"
    return record


class _Part:
    """Chunks up to the number of characters that a part of a segment has; ``count`` says how many they were."""

    def __init__(self, rows: Iterator[WordCounts]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[WordCounts]:
        held = 0
        for counts in self._rows:
            self.count += 1
            yield counts
            held += sum((len(word) + 1) * count for word, count in counts.items())
            if held >= PART_CHARACTERS:
                return


def _write_part(folder: Path, number: int, rows: _Part) -> dict[str, Any]:
    """Have tantivy build one part, and move its files; return tantivy's settings and schema."""
    from tantivy import Document, Index

    building = folder / "building"  # in the store: the system's folder for temporary files may be small
    building.mkdir()
    try:
        index = Index(schema(), path=str(building))
        # One thread: with more, the order of chunks is random.
        writer = index.writer(heap_size=_HEAP_BYTES, num_threads=1)
        for words in rows:
            text = " ".join(" ".join([word] * count) for word, count in words.items())
            writer.add_document(Document(**{FIELD: text}))
        writer.commit()
        writer.wait_merging_threads()
    except (ValueError, OSError) as error:  # as tantivy reports what the system could not write
        if _is_of_full_disk(str(error), folder):
            raise full_disk(folder) from error
        raise
    listed = json.loads((building / "meta.json").read_bytes())
    if len(listed["segments"]) != 1 or listed["segments"][0]["max_doc"] != rows.count:
        found = [segment["max_doc"] for segment in listed["segments"]]
        raise RuntimeError(f"tantivy made segments of {found} chunks where one of {rows.count} was expected.")
    name = listed["segments"][0]["segment_id"].replace("-", "")
    for file in _FILES:
        (building / f"{name}.{file}").rename(folder / f"{number}.{file}")
    del writer, index
    remove_when_left(building)
    return {"index_settings": listed["index_settings"], "schema": listed["schema"]}


def _is_of_full_disk(said: str, folder: Path) -> bool:
    """Whether tantivy means that there was no room; of its threads it says only that one was killed."""
    if "os error 28" in said or "No space left" in said:
        return True
    return "writer was killed" in said and shutil.disk_usage(folder).free < _LEAST_ROOM


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
        require("tantivy", "a lexical index")
        self._threads = threads
        self._schema = schema()
        self._ids: list[np.ndarray] = []
        self._searcher = self._open(folder, segments, first_chunks) if segments else None

    def _open(
        self, folder: Path, segments: Sequence[FolderRecord], first_chunks: Int64[np.ndarray, "_"]
    ) -> "tantivy.Searcher | None":
        from tantivy import Index

        # tantivy maps all files when it opens, after which the links can be removed.
        with _temporary_folder() as links:
            listed: list[dict[str, Any]] = []
            settings: dict[str, Any] = {}
            for segment in segments:
                check_folder(folder, segment)
                place = (folder / LEXICAL / segment.key).absolute()
                stated = _read_settings(place)
                if not stated["parts"]:  # all of its documents were removed
                    continue
                settings = stated
                ids = _read_ids(place, sum(settings["parts"])) + first_chunks[segment.first_block]
                self._ids += np.split(ids, np.cumsum(settings["parts"])[:-1])
                for part, size in enumerate(settings["parts"]):
                    name = uuid.UUID(int=len(listed) + 1)
                    for file in _FILES:
                        (Path(links) / f"{name.hex}.{file}").symlink_to(place / f"{part}.{file}")
                    listed.append({"segment_id": str(name), "max_doc": size, "deletes": None})
            if not listed:
                return None
            content = {"index_settings": settings["index_settings"], "schema": settings["schema"]}
            (Path(links) / "meta.json").write_text(json.dumps(content | {"segments": listed, "opstamp": 0}))
            with _panics_as_damage(folder / LEXICAL):
                index = Index.open(links)
                index.config_reader("manual")  # the segments never change, so they need not be watched
                searcher = index.searcher()
        expected = sum(map(len, self._ids))
        if searcher.num_docs != expected:
            raise _damaged(folder / LEXICAL, f"it has {searcher.num_docs} chunks, not {expected}")
        self._num_chunks, self._folder = expected, folder
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
                ids[row, place] = self._ids[address.segment_ord][address.doc]

        if len(queries) < 2 * self._threads or self._threads == 1:
            for row in range(len(queries)):
                one(row)
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                # In batches: passing single queries to threads costs more than many of the searches.
                runs = [range(begin, min(begin + 32, len(queries))) for begin in range(0, len(queries), 32)]
                list(pool.map(lambda run: [one(row) for row in run], runs))
        return scores, ids

    def count(self, word: str) -> int:
        """Number of chunks with a word."""
        if self._searcher is None:
            return 0
        with _panics_as_damage(self._folder / LEXICAL):
            return self._searcher.doc_freq(FIELD, word)

    def _hits(self, words: WordCounts, k: int) -> "list[tuple[float, tantivy.DocAddress]]":
        from tantivy import Occur, Query

        assert self._searcher is not None
        clauses: list[tuple[Any, Any]] = []
        for word, count in words.items():
            term = Query.term_query(self._schema, FIELD, word, "freq")
            clauses.append((Occur.Should, term if count == 1 else Query.boost_query(term, float(count))))
        if not clauses:
            return []
        with _panics_as_damage(self._folder / LEXICAL):
            return self._searcher.search(Query.boolean_query(clauses), min(k, self._num_chunks), count=False).hits


def _read_settings(place: Path) -> dict[str, Any]:
    """Read the description that `write_segment` wrote: number of rows, and tantivy's settings and schema."""
    try:
        settings = read_json(place / "segment.json", cure=MEND)
    except OSError as error:
        raise _damaged(place, error) from error
    if missing := {"parts", "index_settings", "schema"} - settings.keys():
        raise _damaged(place, f"segment.json lacks {', '.join(sorted(missing))}")
    return settings


def _read_ids(place: Path, count: int) -> Int64[np.ndarray, "_"]:
    """The number in its run of each chunk of a segment."""
    path = place / _IDS
    return np.fromfile(path, dtype="<i8").astype(np.int64) if path.exists() else np.arange(count)


@contextmanager
def _panics_as_damage(place: Path) -> Generator[None]:
    """Report what tantivy cannot read as damage: ValueError, OSError, and panics, which are no ``Exception``."""
    try:
        yield
    except Exception as error:
        raise _damaged(place, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _damaged(place, error) from error


@contextmanager
def _temporary_folder() -> Generator[str]:
    """A folder for links, outside of the store: reading never writes there."""
    with explain_full_disk(Path(tempfile.gettempdir())):
        folder = tempfile.mkdtemp(prefix="retentive-lexical-")
        try:
            yield folder
        finally:
            remove_when_left(Path(folder))


def remove_when_left(folder: Path) -> None:
    """Remove a folder of an index; a thread of tantivy may still create its lock file there after it was emptied."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
        time.sleep(0.01)


def _damaged(place: Path, reason: object) -> DamagedFileError:
    return DamagedFileError(f"the lexical index {str(place)!r} cannot be opened ({reason}): {MEND}.")
