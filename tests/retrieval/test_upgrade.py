import shutil
import tarfile
from pathlib import Path

import pytest

from retentive.cli.main import main
from retentive.errors import MismatchError
from retentive.retrieval import Datastore, HybridEncoder, LexicalEncoder
from retentive.retrieval.encoders import lexical
from retentive.retrieval.upgrade import upgrade_store
from retentive.retrieval.verify import verify_store
from retentive.text.byte_tokenizer import ByteTokenizer
from retrieval.texts import HashedWords, make_documents

OLD = Path(__file__).with_name("store_of_version_1.tar.gz")
"""Made by the last release of format version 1: three documents of which one was removed, and an earlier version."""


@pytest.fixture
def old(tmp_path):
    with tarfile.open(OLD) as packed:
        packed.extractall(tmp_path, filter="data")
    return tmp_path / "store"


def test_an_old_store_is_refused_with_the_command_that_rebuilds_it(old, capsys):
    with pytest.raises(MismatchError, match=rf"by: retentive index upgrade --store {old}"):
        Datastore.open(old)
    main(["index", "upgrade", "--store", str(old)])
    assert "2 documents" in capsys.readouterr().out
    store = Datastore.open(old)
    assert [store.corpus.text(number) for number in range(2)] == [
        "Owls hunt at night.\nTheir feathers make no sound.\n",
        "Schwäne ziehen über die Straße.",
    ]
    assert [answer.document for answer in store.answers("STRASSE")] == ["ü/b.txt"]
    assert store.answers("removed") == []
    assert store.chunk_size == 8
    assert verify_store(old) == []
    with pytest.raises(MismatchError, match="has format version 2, and only version 1 is upgraded"):
        upgrade_store(old)


def test_a_document_that_its_tokens_do_not_spell_is_named(old):
    class UpperBytes(ByteTokenizer):
        def decode(self, ids):
            return super().decode(ids).upper()

    store = upgrade_store(old, tokenizer=UpperBytes())
    assert [line[:20] for line in store.report.skipped] == ["document 'a.txt' is ", "document 'ü/b.txt' i"]
    assert store.corpus.text(0).startswith("OWLS HUNT")


def test_an_interrupted_upgrade_can_be_repeated(old, tmp_path):
    half = shutil.copytree(old, tmp_path / "half")
    upgrade_store(old)
    for path in (old / "chunks").iterdir():
        shutil.copy(path, half / "chunks" / path.name)
    assert upgrade_store(half).version == Datastore.open(old).version


@pytest.mark.parametrize("hybrid", [False, True])
def test_words_by_other_rules_are_refused_and_indexed_again(tmp_path, monkeypatch, capsys, hybrid):
    # A query by today's rules has other keys than an index by earlier ones: its answers would be wrong without a word.
    documents = make_documents(6)
    encoder = HybridEncoder(HashedWords()) if hybrid else LexicalEncoder()
    changes = {
        "reindex": lambda store: store.reindex(),
        "add": lambda store: store.add([("new.txt", "owls and more")]),
        "remove": lambda store: store.remove([documents[2][0]]),
        "sync": lambda store: store.sync(documents[1:]),
        "build": lambda store: Datastore.build(documents, store.folder, encoder=encoder, chunk_size=16),
        "gc": lambda store: store.gc(),
    }
    for name, change in changes.items():
        folder = tmp_path / name
        with monkeypatch.context() as earlier:
            earlier.setattr(lexical, "RULES", "earlier")
            store = Datastore.build(documents, folder, encoder=encoder, chunk_size=16)
            store.remove([documents[0][0]])
        store = Datastore.open(folder, encoder=encoder)
        with pytest.raises(MismatchError, match=rf"by other rules .*: retentive index reindex --store {folder}"):
            store.answers("baa")
        capsys.readouterr()
        change(store)
        if name != "build":  # which says what has changed as for any other encoder
            assert "all words are indexed again" in capsys.readouterr().err
        store = Datastore.open(folder, encoder=encoder)
        fresh = [(name, store.corpus.text(number)) for number, name in store.corpus.names()]
        fresh = Datastore.build(fresh, tmp_path / f"{name}-fresh", encoder=encoder, chunk_size=16)
        query = documents[3][1]
        assert [(a.document, a.score) for a in store.answers(query, k=5)] == [
            (a.document, a.score) for a in fresh.answers(query, k=5)
        ]
