"""An encoder and an index that this package does not know are added through its public dictionaries alone."""

import hashlib

import numpy as np
import pytest

from retentive.errors import DamagedFileError, MismatchError
from retentive.files import read_json, write_json
from retentive.retrieval import ENCODERS, INDEXES, Datastore, HybridEncoder, IndexConfig, LocalEngine, make_encoder
from retentive.retrieval.blocks.block import key_of
from retentive.retrieval.blocks.sealed_folder import MEND, folder_record, sealed_folder
from retentive.retrieval.encoders import EncoderKind, VectorEncoder, WordEncoder
from retentive.retrieval.encoders.words import Words
from retentive.retrieval.index import IndexKind
from retentive.retrieval.index.protocol import NearestVectors
from retrieval.texts import make_documents


class Letters:
    """Toy encoder: how often each letter is in a passage."""

    def __init__(self, letters="etaoin"):
        self.letters = letters

    @classmethod
    def make(cls, model=None, **options):
        return cls(**options)

    @classmethod
    def from_settings(cls, settings):
        return cls(settings["letters"])

    def settings(self):
        return {"kind": "letters", "letters": self.letters}

    def fingerprint(self):
        return hashlib.sha256(f"letters {self.letters}".encode()).hexdigest()

    def dimension(self):
        return len(self.letters)

    def encode(self, passages):
        counts = [[text.count(letter) for letter in self.letters] for text in passages.texts()]
        return np.array(counts, dtype=np.float32).reshape(-1, len(self.letters))


class Pairs:
    """Toy encoder: pairs of letters in place of words."""

    @classmethod
    def make(cls, model=None, **options):
        return cls()

    @classmethod
    def from_settings(cls, settings):
        return cls()

    def settings(self):
        return {"kind": "pairs"}

    def fingerprint(self):
        return hashlib.sha256(b"pairs").hexdigest()

    def split(self, text):
        places = range(len(text) - 1)
        pairs = [text[place : place + 2].replace(" ", "_") for place in places]
        return Words(pairs, [*places], [place + 2 for place in places])


class Table:
    """Toy index: every vector in one JSON file, compared one by one."""

    def __init__(self, vectors):
        self.vectors = vectors

    def search(self, queries, k):
        distances = np.square(queries[:, None] - self.vectors[None]).sum(-1)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        ids[:, : order.shape[1]] = order
        scores[:, : order.shape[1]] = -np.take_along_axis(distances, order, axis=1)
        return scores, ids


class TableKind:
    """What makes and opens toy indexes."""

    folder = "table"

    def build(self, store, vectors, config, *, first_block, engine, say):
        key = key_of(self.folder, vectors.keys)
        record = folder_record(store, self.folder, key, first_block=first_block, num_blocks=len(vectors.keys))
        if record is None:
            say("a table")
            with sealed_folder(store, self.folder, key) as place:
                rows = np.concatenate([*vectors.blocks()]).tolist()
                write_json(place / "vectors.json", {"rows": rows})
            record = folder_record(store, self.folder, key, first_block=first_block, num_blocks=len(vectors.keys))
        return record

    def open(self, store, key, vectors):
        rows = read_json(store / self.folder / key / "vectors.json", cure=MEND)["rows"]
        return Table(np.array(rows, dtype=np.float32))


def build_table(documents, folder):
    return Datastore.build(documents, folder, chunk_size=16, encoder=Letters(), index=IndexConfig(kind="table"))


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setitem(ENCODERS, "letters", Letters)
    monkeypatch.setitem(ENCODERS, "pairs", Pairs)
    monkeypatch.setitem(INDEXES, "table", TableKind())


def test_toys_are_what_the_protocols_ask_for():
    assert isinstance(Letters, EncoderKind)
    assert isinstance(Letters(), VectorEncoder)
    assert isinstance(Pairs, EncoderKind)
    assert isinstance(Pairs(), WordEncoder)
    assert isinstance(TableKind(), IndexKind)
    assert isinstance(Table(np.zeros((1, 1), dtype=np.float32)), NearestVectors)
    for kind in ENCODERS.values():
        assert isinstance(kind, EncoderKind)
    for kind in INDEXES.values():
        assert isinstance(kind, IndexKind)


@pytest.mark.usefixtures("toys")
def test_an_encoder_from_outside_is_made_by_name_and_found_again_by_its_store(tmp_path):
    documents = make_documents(10)
    made = Datastore.build(documents, tmp_path / "a", chunk_size=16, encoder=make_encoder("letters", letters="aeiou"))
    opened = Datastore.open(tmp_path / "a")
    assert opened.encoder.letters == "aeiou"
    query = "some vowels are here"
    np.testing.assert_array_equal(opened.search(query, 3).ids, made.search(query, 3).ids)
    assert opened.search(query, 3).ids.shape == (1, 3)


@pytest.mark.usefixtures("toys")
def test_words_from_outside_are_indexed_and_fused(tmp_path):
    documents = make_documents(10)
    Datastore.build(documents, tmp_path / "words", chunk_size=16, encoder=make_encoder("pairs"))
    store = Datastore.open(tmp_path / "words")
    ids = np.arange(len(store))
    own = [
        store.search(store.tokenizer.decode(row[:16][row[:16] >= 0].tolist()), 1).ids[0, 0] for row in store.tokens(ids)
    ]
    assert np.mean(np.array(own) == ids) > 0.9
    both = HybridEncoder(Letters(), Pairs())
    Datastore.build(documents, tmp_path / "both", chunk_size=16, encoder=both)
    fused = Datastore.open(tmp_path / "both").encoder
    assert (type(fused.dense), type(fused.lexical)) == (Letters, Pairs)


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_index_from_outside_gives_what_the_exact_one_gives(tmp_path, workers):
    documents = make_documents(10)
    stores = {}
    for kind in ("faiss", "table"):
        stores[kind] = Datastore.build(
            documents[:7],
            tmp_path / kind,
            chunk_size=16,
            encoder=Letters(),
            index=IndexConfig(kind=kind),
            engine=LocalEngine(workers),
        )
        stores[kind].add(documents[7:], index=IndexConfig(kind=kind))
    queries = ["one query", "and another, longer one"]
    opened = Datastore.open(tmp_path / "table")
    assert {record.kind for record in opened.manifest.indexes} == {"table"}
    np.testing.assert_allclose(opened.search(queries, 5).scores, stores["faiss"].search(queries, 5).scores)
    assert opened.verify() == []
    again = Datastore.build(
        documents[:7], tmp_path / "table", chunk_size=16, encoder=Letters(), index=IndexConfig(kind="table")
    )
    assert again.report.kept["table"] == 2, "that of the addition too"


@pytest.mark.usefixtures("toys")
def test_a_damaged_index_from_outside_is_found(tmp_path):
    store = Datastore.build(
        make_documents(4), tmp_path, chunk_size=16, encoder=Letters(), index=IndexConfig(kind="table")
    )
    (path,) = tmp_path.glob("table/*/vectors.json")
    path.write_text("{")
    assert [damage.path for damage in store.verify()] == [path]
    with pytest.raises(DamagedFileError, match=r"vectors\.json does not have the content .*: retentive index reindex"):
        Datastore.open(tmp_path).search("a")


def test_unknown_names_are_refused_with_those_that_are_known(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="encoder must be one of lexical, dense, hybrid, but is 'letters'"):
        make_encoder("letters")
    with pytest.raises(ValueError, match=r"index\.kind must be one of faiss, but is 'table'"):
        build_table(make_documents(2), tmp_path / "a")
    assert not list((tmp_path / "a").glob("*"))
    with monkeypatch.context() as patch:
        patch.setitem(INDEXES, "table", TableKind())
        build_table(make_documents(2), tmp_path / "b")
    with pytest.raises(MismatchError, match="built with an encoder of kind 'letters': pass it as encoder="):
        Datastore.open(tmp_path / "b")
    with pytest.raises(MismatchError, match="in folder 'table', but the known ones lie in 'index': add its kind to"):
        Datastore.open(tmp_path / "b", encoder=Letters()).search("a")
