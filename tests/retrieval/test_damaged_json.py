"""Every JSON file of a store: where it is damaged, the error names it, the problem and the cure."""

import re
import shutil

import pytest

from retentive.errors import DamagedFileError
from retentive.retrieval import Datastore, HybridEncoder, NeighbourConfig
from retentive.retrieval.verify import verify_store
from retrieval.texts import HashedWords, make_documents


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "store"
    store = Datastore.build(make_documents(12), folder, chunk_size=16, encoder=HybridEncoder(HashedWords()))
    store.build_neighbours(NeighbourConfig())
    return folder


FILES = {
    "index/*/facts.json": r"retentive index reindex .* makes it again",
    "lexical/*/segment.json": r"retentive index reindex .* makes it again",
    "tables/*.json": r"build the neighbours again",
    "tokenizer/*/retentive_tokenizer.json": r"build the store again|pass tokenizer=",
}

TWICE = {"current.json": "spare/current.json", "manifests/*.json": "spare/*.json"}
"""Files that are there twice."""


def use(folder):
    """Everything that reads a store."""
    store = Datastore.open(folder, encoder=HybridEncoder(HashedWords()))
    store.search("some words")
    store.neighbours(NeighbourConfig())


def test_these_are_all_of_them(built):
    read_by_others = {"tokenizer.json", "tokenizer_config.json"}
    found = {path for path in built.rglob("*.json") if path.name not in read_by_others}
    patterns = [*FILES, *TWICE, "spare/*.json"]
    assert found == {path for pattern in patterns for path in built.glob(pattern)}
    use(built)


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"[]", b"{}"])
@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_named_with_the_cure(built, tmp_path, pattern, content):
    folder = tmp_path / "store"
    shutil.copytree(built, folder)
    (path,) = folder.glob(pattern)
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"{re.escape(str(path.parent))}.*({FILES[pattern]})"):
        use(folder)


@pytest.mark.parametrize("content", [b"", b"[]"])
@pytest.mark.parametrize("pattern", TWICE)
def test_one_copy_is_enough_to_read_and_to_mend(built, tmp_path, pattern, content):
    folder = tmp_path / "store"
    for victims in ([pattern], [TWICE[pattern]]):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(built, folder)
        for victim in victims:
            (path,) = (one for one in folder.glob(victim) if pattern == "current.json" or one.name != "current.json")
            path.write_bytes(content)
        use(folder)
        Datastore.open(folder, encoder=HybridEncoder(HashedWords())).reindex()
        assert verify_store(folder) == []
    for path in folder.rglob("*.json"):
        if path.parent.name in ("spare", "manifests", "store"):
            path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"both copies are damaged, .*: build in another folder"):
        use(folder)
    with pytest.raises(DamagedFileError, match=r"both copies are damaged"):
        Datastore.build(make_documents(12), folder, chunk_size=16, encoder=HybridEncoder(HashedWords()))
