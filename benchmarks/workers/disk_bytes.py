"""Bytes on disk of the same passages in other packages: ``python disk_bytes.py lancedb|bm25s PASSAGES FOLDER``.

Runs in the environment of the package. Both keep the text and an index of its words, neither stems nor positions of
words, as the datastore does. Prints the bytes.
"""

import json
import sys
from pathlib import Path


def lancedb(passages: list[dict[str, str]], folder: Path) -> None:
    """A table with an index of words."""
    import lancedb

    table = lancedb.connect(str(folder)).create_table("passages", passages)
    table.create_fts_index("text", with_position=False, stem=False, remove_stop_words=False, ascii_folding=False)


def bm25s(passages: list[dict[str, str]], folder: Path) -> None:
    """An index of words beside its corpus."""
    import bm25s

    made = bm25s.BM25(method="lucene")
    words = bm25s.tokenize([one["text"] for one in passages], stopwords=None, show_progress=False)
    made.index(words, show_progress=False)
    made.save(folder, corpus=passages)


PACKAGES = {"lancedb": lancedb, "bm25s": bm25s}

if __name__ == "__main__":
    name, passages, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    PACKAGES[name](json.loads(passages.read_text("utf-8")), folder)
    print(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
