"""Neighbours that stand where the chunk stands: revisions are read place by place, and copies are not let in."""

from pathlib import Path

import numpy as np

from retentive.data.neighbours.stores import ChunkNeighbours, build_neighbours
from retentive.data.prepare import PrepareConfig, prepare
from retentive.data.token_store import TokenStore
from retentive.retrieval import NeighbourConfig

CHUNK = 16
FILLER = "a passage about something else altogether. "
TEXT = "The quick brown fox jumps over the lazy dog, and then the dog says nothing at all to anybody who passes by. "


def neighbours_of(folder: Path, texts: dict[str, str], **options: object) -> list[ChunkNeighbours]:
    for name, text in texts.items():
        (folder / "text" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "text" / name).write_text(text)
    prepare(PrepareConfig(source=folder / "text", output=folder / "store", held_out="new/**"))
    store, config = TokenStore.open(folder / "store"), NeighbourConfig(k=1, **options)  # type: ignore[arg-type]
    build_neighbours(store, folder / "neighbours", chunk_size=CHUNK, config=config)
    place = folder / "neighbours"
    return [
        ChunkNeighbours(store, "heldout", place, chunk_size=CHUNK, config=config, aligned=aligned)
        for aligned in (False, True)
    ]


def test_what_is_common_stands_at_the_chunks_own_place(tmp_path: Path):
    revised = TEXT.replace("quick", "slow").replace("dog", "cat").replace("nothing", "a word")
    plain, moved = neighbours_of(tmp_path, {"old/a.txt": "xy" + TEXT, "new/a.txt": revised, "old/b.txt": FILLER})
    numbers = np.arange(len(revised) // CHUNK)
    documents = np.zeros_like(numbers)
    text = moved.text(documents, numbers * CHUNK, CHUNK)
    equal = [(each.tokens(documents, numbers)[:, 0, :CHUNK] == text).mean() for each in (plain, moved)]
    assert equal[1] > equal[0] + 0.2
    again = ChunkNeighbours.__reduce__(moved)
    assert np.array_equal(again[0](*again[1]).tokens(documents, numbers), moved.tokens(documents, numbers))  # type: ignore[operator]
    assert moved.tokens(np.array([[-1, 0]]), np.array([[0, 0]])).shape == (1, 2, 1, 2 * CHUNK)
    assert (moved.tokens(np.array([-1]), np.array([0])) == -1).all()


def test_a_copy_of_a_chunk_of_the_same_document_stays_where_it_was(tmp_path: Path):
    _, moved = neighbours_of(tmp_path, {"old/a.txt": "xy" + TEXT + "!", "new/a.txt": TEXT, "old/b.txt": FILLER})
    numbers = np.arange(len(TEXT) // CHUNK)
    documents = np.zeros_like(numbers)
    whole = {TEXT[at : at + CHUNK].encode() for at in range(0, len(TEXT) - CHUNK + 1, CHUNK)}
    for found in moved.tokens(documents, numbers)[:, 0]:
        for half in np.split(found, 2):
            assert bytes(half[half >= 0].tolist()) not in whole


def test_a_copy_is_shifted_on_request(tmp_path: Path):
    _, moved = neighbours_of(tmp_path, {"old/a.txt": "xy" + TEXT + "!", "new/a.txt": TEXT, "old/b.txt": FILLER})
    *arguments, _ = moved.__reduce__()[1]  # type: ignore[misc]
    copied = moved.__reduce__()[0](*arguments, True)  # type: ignore[operator]
    numbers = np.arange(len(TEXT) // CHUNK - 1)
    documents = np.zeros_like(numbers)
    following = moved.text(documents, (numbers + 1) * CHUNK, CHUNK)
    shares = [(each.tokens(documents, numbers)[:, 0, CHUNK:] == following).mean() for each in (moved, copied)]
    assert shares[1] > 0.9
    assert shares[0] < 0.5
