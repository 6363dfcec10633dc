"""Every JSON file of a store: where it is damaged, the error names it, the problem and the cure."""

import re
import shutil

import pytest

from retentive.errors import DamagedFileError
from retentive.retrieval import Datastore, HybridEncoder, NeighbourConfig
from retrieval.texts import HashedWords, make_documents


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "store"
    store = Datastore.build(make_documents(12), folder, chunk_size=16, encoder=HybridEncoder(HashedWords()))
    store.build_neighbours(NeighbourConfig())
    return folder


FILES = {
    "current.json": r"build the store again",
    "manifests/*.json": r"build the store again",
    "index/*/facts.json": r"verify the store .* and build it again",
    "lexical/*/segment.json": r"verify the store .* and build it again",
    "tables/*.json": r"build the neighbours again",
    "tokenizer/*/retentive_tokenizer.json": r"build the store again|pass tokenizer=",
}


def use(folder):
    """Everything that reads a store."""
    store = Datastore.open(folder, encoder=HybridEncoder(HashedWords()))
    store.search("some words")
    store.neighbours(NeighbourConfig())


def test_these_are_all_of_them(built):
    read_by_others = {"tokenizer.json", "tokenizer_config.json"}
    found = {path for path in built.rglob("*.json") if path.name not in read_by_others}
    assert found == {path for pattern in FILES for path in built.glob(pattern)}
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
