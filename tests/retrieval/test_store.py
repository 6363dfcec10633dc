import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from retentive.errors import DamagedFileError, MismatchError
from retentive.files import only_writer
from retentive.retrieval import Datastore, HybridEncoder, LocalEngine
from retentive.retrieval.manifest import version_keys
from retentive.retrieval.passages import Passages
from retrieval.texts import HashedWords, contents, make_documents, names_current, snapshot

ENCODERS = {"lexical": None, "own": HashedWords(), "hybrid": HybridEncoder(HashedWords())}


def build(folder, documents=None, **options):
    options = {"chunk_size": 8, "block_bytes": 500} | options
    return Datastore.build(make_documents(20) if documents is None else documents, folder, **options)


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]


def own(encoder):
    """What must be given again to `open`: an encoder that the store cannot make."""
    return {} if encoder is None else {"encoder": encoder}


def test_a_stored_chunk_is_its_own_nearest_neighbour(tmp_path, encoder):
    documents = [(str(number), f"word{number} term{number} other{number % 3} common") for number in range(30)]
    store = build(tmp_path / "s", documents, encoder=encoder, chunk_size=64)
    opened = Datastore.open(tmp_path / "s", **own(encoder))
    ids = np.arange(opened.corpus.num_chunks)
    for one in (store, opened):
        found = one.search(one.corpus.tokens(ids), k=3)
        assert found.ids.shape == found.scores.shape == (30, 3)
        assert found.tokens.shape == (30, 3, 128)
        assert found.ids[:, 0].tolist() == ids.tolist()
        assert (np.diff(found.scores[np.isfinite(found.scores).all(axis=1)], axis=1) <= 0).all()


def test_text_texts_tokens_and_padded_rows_are_the_same_query(tmp_path, encoder):
    store = build(tmp_path / "s", encoder=encoder)
    text = "baa bab loc"
    ids = store.tokenizer.encode(text)
    rows = np.full((2, 40), -1)
    rows[0, : len(ids)] = ids
    rows[1, 40 - len(ids) :] = ids
    expected = store.search(text, k=4)
    for query in ([text], ids, np.array(ids), rows[:1], rows[1:]):
        found = store.search(query, k=4)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
    assert store.search([text, "tia"], k=4).ids.shape == (2, 4)


def test_the_query_of_a_stored_chunk_is_its_key(tmp_path):
    encoder = HashedWords()
    store = build(tmp_path / "s", encoder=encoder)
    keys = np.concatenate(list(store.searcher._vectors[1].blocks()))
    ids = np.arange(store.corpus.num_chunks)
    queries = store.searcher.queries(Passages(store.corpus.tokens(ids), store.tokenizer))
    np.testing.assert_array_equal(queries.vectors, keys)


def test_neighbours_come_with_what_follows_in_their_document_only(tmp_path):
    store = build(tmp_path / "s", [("a", "x" * 20), ("empty", ""), ("b", "y" * 16), ("c", "z" * 3)], chunk_size=8)
    assert store.corpus.num_chunks == 6
    ids = np.array([[0, 1, 2], [3, 4, 5]])
    tokens = store.tokens(ids)
    texts = [[bytes(row[row >= 0].tolist()).decode() for row in line] for line in tokens]
    assert texts == [["x" * 16, "x" * 12, "x" * 4], ["y" * 16, "y" * 8, "z" * 3]]
    assert (tokens[0, 2, 4:] == -1).all(), "neither a short chunk nor a missing continuation has text"
    assert store.corpus.documents(ids).tolist() == [[0, 0, 0], [2, 2, 3]]
    assert store.corpus.continuations(ids).tolist() == [[1, 2, -1], [4, -1, -1]]
    assert [store.corpus.chunks_of(document) for document in range(4)] == [
        range(3),
        range(3, 3),
        range(3, 5),
        range(5, 6),
    ]
    missing = store.tokens(np.array([-1]))
    assert missing.shape == (1, 16)
    assert (missing == -1).all()


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_stores_of_any_size_answer(tmp_path, encoder, count):
    documents = [(str(number), f"w{number}") for number in range(count)]
    build(tmp_path / "s", documents, encoder=encoder, chunk_size=64)
    store = Datastore.open(tmp_path / "s", **own(encoder))
    assert len(store) == count
    found = store.search("w0 w1", k=5)
    assert found.ids.shape == (1, 5)
    assert found.mask.any(axis=2).sum() == (found.ids >= 0).sum()
    assert (found.ids >= 0).sum() == min(count, 2 if encoder is None else 5)
    assert np.isneginf(found.scores[found.ids < 0]).all()
    if count:
        assert set(found.ids[0, : min(count, 2)].tolist()) == set(range(min(count, 2)))


def test_excluded_documents_give_no_answer(tmp_path, encoder):
    documents = [(f"{number}.txt", "same words in all of them") for number in range(40)]
    store = build(tmp_path / "s", documents, encoder=encoder, chunk_size=64)
    excluded = [f"{number}.txt" for number in range(38)]
    found = store.search("same words", k=4, exclude_documents=excluded)
    assert sorted(found.ids[0].tolist()) == [-1, -1, 38, 39]
    with pytest.raises(ValueError, match=r"document 'none' is not in the store"):
        store.search("same", exclude_documents=["none"])


def test_building_again_computes_nothing_and_changes_no_byte(tmp_path, encoder):
    first = build(tmp_path / "s", encoder=encoder)
    assert first.report.made["chunks"] > 3
    before = snapshot(tmp_path / "s")
    again = build(tmp_path / "s", encoder=encoder)
    assert again.report.made == {}
    assert again.report.kept == first.report.made
    assert snapshot(tmp_path / "s") == before


def test_workers_change_no_byte(tmp_path, encoder):
    build(tmp_path / "a", encoder=encoder)
    build(tmp_path / "b", encoder=encoder, engine=LocalEngine(workers=2))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chunk_size": 9}, r"chunk_size was 8 and is 9"),
        ({"encoder": HashedWords(8)}, r"the encoder was lexical \(.*\) and is hashed words"),
        ({"documents": [*make_documents(19), ("folder/19.txt", "other")]}, r"1 document is altered.*'folder/19.txt'"),
        ({"documents": make_documents(19)}, r"1 document is gone.*'folder/19.txt'"),
        ({"documents": [*make_documents(20), ("new", "x")]}, r"1 document is new.*'new'"),
    ],
)
def test_a_change_is_told_and_the_old_version_stays(tmp_path, capsys, change, told):
    old = build(tmp_path / "s")
    before = snapshot(tmp_path / "s")
    new = build(tmp_path / "s", **change)
    assert new.version != old.version
    (line,) = new.report.changes
    assert line in capsys.readouterr().err
    assert re.search(told, line)
    after = snapshot(tmp_path / "s")
    kept = {name: entry for name, entry in after.items() if name in before and not names_current(name)}
    assert kept == {name: entry for name, entry in before.items() if not names_current(name)}
    earlier = Datastore.open(tmp_path / "s", version=old.version)
    np.testing.assert_array_equal(earlier.search("baa", k=5).ids, old.search("baa", k=5).ids)
    assert set(version_keys(tmp_path / "s")) == {old.version, new.version}


def test_another_tokenizer_is_told_and_refused_when_opened(tmp_path):
    from retentive.text.subword_tokenizer import train_bpe

    build(tmp_path / "s")
    bpe = train_bpe([text for _, text in make_documents(5)], vocab_size=300)
    store = build(tmp_path / "s", tokenizer=bpe)
    assert "the tokenizer was bytes" in store.report.changes[0]
    other = train_bpe(["entirely different text"] * 9, vocab_size=290)
    with pytest.raises(MismatchError, match=r"was built with the tokenizer of fingerprint .*open it with the same"):
        Datastore.open(tmp_path / "s", tokenizer=other)


def test_a_damaged_tokenizer_is_named_when_opened(tmp_path):
    build(tmp_path / "s")
    (path,) = (tmp_path / "s").glob("tokenizer/*/retentive_tokenizer.json")
    path.write_text(path.read_text() + " ")
    with pytest.raises(DamagedFileError, match=rf"{path.name} does not have the content .*: build the store again"):
        Datastore.open(tmp_path / "s")
    build(tmp_path / "s")
    assert len(Datastore.open(tmp_path / "s")) > 0


def test_another_encoder_is_refused_when_opened(tmp_path):
    build(tmp_path / "s", encoder=HashedWords())
    with pytest.raises(MismatchError, match=r"was built with an encoder of kind 'hashed words': pass it as encoder="):
        Datastore.open(tmp_path / "s")
    with pytest.raises(MismatchError, match=r"was built with the encoder of fingerprint"):
        Datastore.open(tmp_path / "s", encoder=HashedWords(8))


def test_two_stores_in_one_folder_do_not_meet(tmp_path):
    one = build(tmp_path / "one", [("a", "apple")])
    two = build(tmp_path / "two", [("a", "pear")])
    assert one.search("apple").ids[0, 0] == 0
    assert two.search("apple").ids[0, 0] == -1


def test_two_builders_of_one_store_the_second_is_refused(tmp_path):
    build(tmp_path / "s")
    script = "import sys; from retentive.retrieval import Datastore; Datastore.build([('a', 'b')], sys.argv[1])"
    with only_writer(tmp_path / "s"):
        run = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s")], capture_output=True, text=True)
        assert run.returncode != 0
        assert "another process is writing to this folder" in run.stderr
        with pytest.raises(BlockingIOError, match="another process is writing to this folder"):
            build(tmp_path / "s")
    build(tmp_path / "s")


def test_readers_change_no_byte_and_need_no_right_to_write(tmp_path, encoder):
    build(tmp_path / "s", encoder=encoder)
    before = snapshot(tmp_path / "s")
    places = [tmp_path / "s", *(tmp_path / "s").rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    # A file that comes and goes again would change the time of its folder.
    times = {place: place.stat().st_mtime_ns for place in places}
    try:
        store = Datastore.open(tmp_path / "s", **own(encoder))
        assert store.search("baa", k=3).ids.min() >= 0
        assert store.tokens(np.arange(3)).shape == (3, 16)
        assert list(store.corpus.names())
    finally:
        for place in places:
            place.chmod(0o755 if place.is_dir() else 0o644)
    assert {place: place.stat().st_mtime_ns for place in places} == times
    assert sorted([tmp_path / "s", *(tmp_path / "s").rglob("*")]) == sorted(places)
    assert {name: entry[2] for name, entry in snapshot(tmp_path / "s").items()} == {
        name: entry[2] for name, entry in before.items()
    }


def test_threads_may_search_side_by_side(tmp_path):
    store = build(tmp_path / "s")
    queries = ["baa bab", "loc", "tia tib tic", "sua"] * 5
    expected = [store.search(query, k=3).ids.tolist() for query in queries]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: store.search(query, k=3).ids.tolist(), queries)) == expected


def test_no_store_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no finished store in .*: build one"):
        Datastore.open(tmp_path / "none")
    (tmp_path / "chunks").mkdir()
    with pytest.raises(FileNotFoundError, match=r"its build was interrupted: build it again"):
        Datastore.open(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("x")
    with pytest.raises(FileExistsError, match=r"is no store and not empty \(it has holiday.jpg\)"):
        build(tmp_path / "photos")
    with pytest.raises(NotADirectoryError, match="must be a folder"):
        build(tmp_path / "photos" / "holiday.jpg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": 0}, r"chunk_size must be from 1 to 65535 tokens, but is 0"),
        ({"chunk_size": 70_000}, r"chunk_size must be from 1 to 65535"),
        ({"block_bytes": 0}, r"block_bytes must be at least 1 byte, but is 0"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "s", **options)


def test_queries_that_cannot_be_are_refused(tmp_path):
    store = build(tmp_path / "s")
    with pytest.raises(ValueError, match="k must be at least 1 neighbour, but is 0"):
        store.search("a", k=0)
    with pytest.raises(ValueError, match=r"query tokens must be from -1 to 256, but are 300 to 300"):
        store.search([300])
    with pytest.raises(ValueError, match=r"query tokens must be integers of shape .* but are float64 of shape \(2,\)"):
        store.search(np.zeros(2))
    with pytest.raises(ValueError, match=r"chunk ids must be from 0 to \d+ \(or -1: missing\), but one is 9999"):
        store.tokens(np.array([9999]))


def test_a_damaged_pointer_or_manifest_is_named_and_mended_by_building(tmp_path):
    store = build(tmp_path / "s")
    for path in (tmp_path / "s" / "current.json", tmp_path / "s" / "manifests" / f"{store.version}.json"):
        sound = path.read_bytes()
        path.write_bytes(sound[:-20])
        assert Datastore.open(tmp_path / "s").version == store.version, "the second copy is read"
        assert [damage.path for damage in store.verify()] == [path]
        assert build(tmp_path / "s").report.made == {}
        assert path.read_bytes() == sound
