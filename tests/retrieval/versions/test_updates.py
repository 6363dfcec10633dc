import numpy as np
import pytest

from retentive.files import full_disk
from retentive.retrieval import Datastore, HybridEncoder, IndexConfig, NeighbourConfig
from retentive.retrieval.verify import verify_store
from retentive.retrieval.versions import garbage
from retentive.retrieval.versions.garbage import compact
from retrieval.texts import HashedWords, make_documents, names_current, snapshot

ENCODERS = {"lexical": None, "own": HashedWords(), "hybrid": HybridEncoder(HashedWords())}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]


def build(folder, documents, **options):
    return Datastore.build(documents, folder, chunk_size=16, block_bytes=700, **options)


def texts_of(store, found):
    return [store.tokenizer.decode(row[row >= 0].tolist()) for line in found.tokens for row in line]


def test_added_documents_are_found_and_nothing_is_computed_again(tmp_path, encoder):
    documents = make_documents(12)
    store = build(tmp_path / "s", documents, encoder=encoder)
    before, ids = snapshot(tmp_path / "s"), np.arange(store.corpus.num_chunks)
    tokens = store.tokens(ids)
    report = store.add([("new/1", "zebra giraffe"), ("new/2", "zebra okapi")])
    assert report.made["chunks"] == 1
    assert report.made.get("vectors", 0) == (0 if encoder is None else 1)
    assert report.kept.get("chunks", 0) == 0
    np.testing.assert_array_equal(store.tokens(ids), tokens)
    found = store.search(["zebra giraffe", "zebra okapi"], k=1)
    assert store.corpus.documents(found.ids).tolist() == [[12], [13]]
    assert [store.corpus.document_name(number) for number in (12, 13)] == ["new/1", "new/2"]
    after = snapshot(tmp_path / "s")
    assert {name: after[name] for name in before if not names_current(name)} == {
        name: entry for name, entry in before.items() if not names_current(name)
    }
    assert verify_store(tmp_path / "s") == []


def test_adding_gives_the_answers_of_building_at_once(tmp_path, encoder):
    documents = make_documents(24)
    whole = build(tmp_path / "whole", documents, encoder=encoder)
    grown = build(tmp_path / "grown", documents[:10], encoder=encoder)
    for begin in (10, 11, 17):
        grown.add(documents[begin : {10: 11, 11: 17, 17: 24}[begin]])
    queries = [text[:60] for _, text in documents if text]
    expected, found = whole.search(queries, k=3), grown.search(queries, k=3)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    report = grown.reindex()
    assert set(report.made) <= {"lexical", "index"}
    np.testing.assert_array_equal(grown.search(queries, k=3).ids, expected.ids)
    assert len(grown.manifest.indexes) == len(whole.manifest.indexes)


def test_the_text_of_a_removed_document_is_in_no_later_answer(tmp_path, encoder):
    documents = [(f"{number}", f"shared words and secret{number} things") for number in range(9)]
    store = build(tmp_path / "s", documents, encoder=encoder)
    table = store.build_neighbours(NeighbourConfig(k=3))
    ids = np.arange(store.corpus.num_chunks)
    assert "secret4" in " ".join(texts_of(store, store.search("secret4", k=9)))
    other = Datastore.open(tmp_path / "s", encoder=encoder) if encoder else Datastore.open(tmp_path / "s")
    store.remove(["4", "5"])
    gone = np.concatenate([np.array(store.corpus.chunks_of(number)) for number in (4, 5)])
    assert len(store) == store.corpus.num_chunks - len(gone)
    opened = Datastore.open(tmp_path / "s", encoder=encoder) if encoder else Datastore.open(tmp_path / "s")
    assert other.refresh()
    for one in (store, opened, other):
        found = one.search(["secret4", "secret5", "shared words"], k=30)
        assert not {"secret4", "secret5"} & set(" ".join(texts_of(one, found)).split())
        assert not np.isin(found.ids, gone).any()
        # The old table is still good, and shows none of them.
        kept = one.neighbours(NeighbourConfig(k=3))
        assert kept.key == table.key
        assert not np.isin(kept.ids(ids), gone).any()
    fresh = store.build_neighbours(NeighbourConfig(k=3))
    assert fresh.key != table.key
    assert not np.isin(fresh.ids(ids), gone).any()
    assert store.neighbours(NeighbourConfig(k=3)).key == fresh.key


def test_removing_an_unknown_document_removes_none(tmp_path):
    store = build(tmp_path / "s", [("a", "apple"), ("b", "pear")])
    with pytest.raises(ValueError, match=r"document 'c' is not in the store"):
        store.remove(["a", "c"])
    assert store.search("apple").ids[0, 0] == 0
    store.remove(["a"])
    with pytest.raises(ValueError, match=r"document 'a' is not in the store"):
        store.remove(["a"])


def test_a_known_document_is_left_out_refused_or_replaced(tmp_path):
    store = build(tmp_path / "s", [("a", "apple"), ("b", "pear")])
    version = store.version
    report = store.add([("a", "apple")])
    assert "document 'a' is there already, with the same text" in report.skipped[0]
    assert store.version == version
    with pytest.raises(ValueError, match=r"document 'a' is there already with another text: pass replace=True"):
        store.add([("a", "plum"), ("c", "fig")])
    assert store.version == version
    store.add([("a", "plum")], replace=True)
    assert store.search("apple").ids[0, 0] == -1
    assert store.search("plum").ids[0, 0] == 2
    assert [name for _, name in store.corpus.names()] == ["b", "a"]
    store.remove(["a"])
    assert store.search("plum").ids[0, 0] == -1


def test_a_table_from_before_an_addition_is_refused(tmp_path):
    store = build(tmp_path / "s", make_documents(8))
    store.build_neighbours()
    store.add([("new", "zebra")])
    with pytest.raises(
        FileNotFoundError, match=r"has no neighbour table of this version with k=2.*build_neighbours makes it"
    ):
        store.neighbours()
    assert len(store.build_neighbours()) == store.corpus.num_chunks


def test_a_removal_can_be_reindexed_away(tmp_path, encoder):
    store = build(tmp_path / "s", make_documents(12), encoder=encoder)
    store.remove(["folder/3.txt"])
    gone = np.array(store.corpus.chunks_of(3))
    store.reindex(index=IndexConfig(factory="HNSW8") if encoder else None)
    assert not np.isin(store.search("baa bab bac", k=50).ids, gone).any()
    assert verify_store(tmp_path / "s") == []


def test_building_again_keeps_what_was_added_and_removed(tmp_path, encoder):
    documents = make_documents(12)
    store = build(tmp_path / "s", documents, encoder=encoder)
    store.add([("new", "zebra giraffe")])
    store.add([("folder/1.txt", "okapi")], replace=True)
    store.remove(["folder/3.txt"])
    held = sorted(name for _, name in store.corpus.names())
    again = build(tmp_path / "s", documents, encoder=encoder)
    assert sorted(name for _, name in again.corpus.names()) == held
    assert again.search("okapi").ids[0, 0] >= 0
    assert build(tmp_path / "s", documents, encoder=encoder).version == again.version
    # With other chunks, what was added is cut again from the text that is kept.
    other = Datastore.build(documents, tmp_path / "s", chunk_size=8, block_bytes=700, encoder=encoder)
    assert sorted(name for _, name in other.corpus.names()) == held
    other.add([("folder/3.txt", documents[3][1])])
    assert "folder/3.txt" in dict(map(reversed, other.corpus.names()))


def test_a_source_that_cannot_be_used_changes_nothing(tmp_path):
    store = build(tmp_path / "s", [("a", "apple")])
    for source in ([], [("b", "half \ud800")]):
        with pytest.raises(ValueError, match=r"the source has no document that can be used.*the store is as it was"):
            build(tmp_path / "s", source, on_error="skip")
        with pytest.raises(ValueError, match=r"the source has no document that can be used"):
            store.sync(source, on_error="skip")
    with pytest.raises(ValueError, match=r"no document that can be used \(.*half a surrogate pair"):
        build(tmp_path / "new", [("b", "half \ud800")], on_error="skip")
    assert Datastore.open(tmp_path / "s").version == store.version


def test_a_replacement_that_fails_keeps_the_old_text(tmp_path):
    store = build(tmp_path / "s", [("a", "apple"), ("b", "pear")])
    report = store.add([("a", "half \ud800"), ("c", "plum")], replace=True, on_error="skip")
    assert "half a surrogate pair" in report.skipped[0]
    assert store.search("apple").ids[0, 0] == 0
    assert (report.added, report.replaced) == (1, 0)


def test_syncing_follows_the_source_and_keeps_what_cannot_be_read_now(tmp_path):
    class Source(list):
        def __init__(self, documents):
            super().__init__(documents)
            self.problems, self.unusable = ["b: is not UTF-8"], ["b", "folder"]

    store = build(tmp_path / "s", [("a", "apple"), ("b", "pear"), ("folder/c", "plum"), ("d", "fig")])
    report = store.sync(Source([("a", "quince"), ("e", "sloe")]))
    assert {name for _, name in store.corpus.names()} == {"a", "b", "folder/c", "e"}
    assert (report.added, report.replaced, report.removed, report.unchanged) == (1, 1, 1, 0)
    version = store.version
    assert store.sync(Source([("a", "quince"), ("e", "sloe")])).unchanged == 2
    assert store.version == version


def test_gc_takes_old_versions_and_removed_text_off_the_disk(tmp_path, encoder):
    documents = [(f"{number}", f"shared words and secret{number} things") for number in range(40)]
    store = build(tmp_path / "s", documents, encoder=encoder)
    for number in range(5):
        store.add([(f"more {number}", f"hidden{number} words")])
    store.remove(["4", "more 1"])
    expected = [store.corpus.text(number) for number, _ in store.corpus.names()]
    store.build_neighbours()
    freed = store.gc()
    assert freed.documents == 2
    assert freed.bytes > 0
    assert [store.corpus.text(number) for number, _ in store.corpus.names()] == expected
    assert store.corpus.num_documents == len(expected)
    assert len(list((tmp_path / "s" / "manifests").iterdir())) == 1
    assert len([block for block in store.manifest.chunks if block.added]) == 1, "small additions are put together"
    tokens = store.tokens(np.arange(store.corpus.num_chunks))
    assert not any("secret4 " in store.tokenizer.decode(row[row >= 0].tolist()) for row in tokens)
    assert verify_store(tmp_path / "s") == []
    left = snapshot(tmp_path / "s")
    assert store.gc().files == 0
    assert snapshot(tmp_path / "s") == left
    # The same source again: removed documents stay out, and nothing is computed again.
    again = build(tmp_path / "s", documents, encoder=encoder)
    assert again.version == store.version
    assert again.report.made == {}


def test_index_options_belong_to_the_store(tmp_path):
    store = build(tmp_path / "s", make_documents(12), encoder=HashedWords(), index=IndexConfig(factory="HNSW8"))
    store.add([("new", "zebra")])
    assert {record.facts["factory"] for record in store.manifest.indexes} == {"HNSW8"}
    again = build(tmp_path / "s", make_documents(12), encoder=HashedWords())
    assert again.manifest.settings["index"]["factory"] == "HNSW8"
    again.reindex(index=IndexConfig(factory="Flat"))
    assert [record.facts["factory"] for record in again.manifest.indexes] == ["Flat"]
    again.add([("newer", "okapi")])
    assert {record.facts["factory"] for record in again.manifest.indexes} == {"Flat"}


def test_a_name_is_one_name_and_not_its_letters(tmp_path):
    store = build(tmp_path / "s", [("ab", "apple"), ("a", "apple"), ("b", "apple")])
    assert sorted(store.search("apple", k=3, exclude_documents="ab").ids[0].tolist()) == [-1, 1, 2]
    store.remove("ab")
    assert [name for _, name in store.corpus.names()] == ["a", "b"]


def test_gc_on_a_full_disk_deletes_what_is_not_needed_first_and_then_says_what_it_needs(tmp_path, monkeypatch):
    store = build(tmp_path / "s", [(f"{number}", f"shared words and secret{number}") for number in range(9)])
    store.remove(["4"])
    before, tried = len(list((tmp_path / "s" / "manifests").iterdir())), []

    def full(*given):
        tried.append(len(list((tmp_path / "s" / "manifests").iterdir())))
        if len(tried) != 2:
            raise full_disk(tmp_path / "s")
        return compact(*given)

    monkeypatch.setattr(garbage, "compact", full)
    freed = store.gc()
    assert (before, tried) == (2, [2, 1])
    assert freed.documents == 1
    assert freed.files > 1
    monkeypatch.setattr(garbage, "compact", compact)
    assert store.gc().files == 0
    assert verify_store(tmp_path / "s") == []
    tried[:] = [0, 0]
    monkeypatch.setattr(garbage, "compact", full)
    with pytest.raises(OSError, match=r"free some space.*gc writes the text that stays before it deletes"):
        store.gc()
    assert verify_store(tmp_path / "s") == []
