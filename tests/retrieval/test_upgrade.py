import shutil
import tarfile
from pathlib import Path

import pytest

from retentive.cli.main import main
from retentive.errors import MismatchError
from retentive.retrieval import Datastore
from retentive.retrieval.upgrade import upgrade_store
from retentive.retrieval.verify import verify_store
from retentive.text.byte_tokenizer import ByteTokenizer

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
