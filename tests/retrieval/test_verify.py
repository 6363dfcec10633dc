import numpy as np
import pytest

from retentive.errors import DamagedFileError
from retentive.files import temporary_name
from retentive.retrieval import Datastore, HybridEncoder, IndexConfig, NeighbourConfig
from retentive.retrieval.blocks.block import read_block
from retentive.retrieval.verify import verify_store
from retrieval.texts import HashedWords, damage, make_documents, snapshot

ENCODER = HybridEncoder(HashedWords())
CONFIG = NeighbourConfig(k=2, near_duplicates=0.8)
WAYS = ["truncated", "flipped", "zeroed", "emptied", "missing", "swapped"]


def build(folder):
    store = Datastore.build(
        make_documents(16),
        folder,
        chunk_size=16,
        block_bytes=900,
        encoder=ENCODER,
        index=IndexConfig(factory="IVF4,SQ8"),
    )
    store.build_neighbours(CONFIG)
    return store


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "sound"
    build(folder)
    return folder


@pytest.fixture
def store(tmp_path, sound):
    import shutil

    shutil.copytree(sound, tmp_path / "s")
    yield tmp_path / "s"
    read_block.cache_clear()


def files_of(folder, kind):
    return sorted(path for path in (folder / kind).rglob("*") if path.is_file())


KINDS = ["chunks", "vectors", "lexical", "index", "signatures", "neighbours", "tables", "manifests", "tokenizer"]


def test_a_sound_store_has_no_damage(sound):
    assert verify_store(sound) == []
    assert {path.name for path in sound.iterdir()} == {*KINDS, "current.json"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", WAYS)
def test_every_kind_of_damage_is_named_and_only_that_is_mended(store, sound, kind, how):
    files = files_of(store, kind)
    if how == "swapped" and len({path.read_bytes() for path in files}) < 2:
        files = [*files, *files_of(store, "chunks")]
    victim = max(files_of(store, kind), key=lambda path: (path.stat().st_size, path.name))
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    inodes = snapshot(store)
    damage(victim, how, files)
    harmed = {path for path in before if not path.exists() or path.read_bytes() != before[path]}
    named = {found.path for found in verify_store(store)}
    if kind == "tables":  # the blocks of a list that is gone belong to nothing
        named -= set(files_of(store, "neighbours")) - harmed
        assert named >= harmed - ({victim} if how == "missing" else set())
    else:
        assert named >= harmed
    # Nothing sound is ever named.
    assert named <= harmed | {path.parent for path in harmed}
    build(store)
    assert verify_store(store) == []
    mended = snapshot(store)
    assert {name: entry[2] for name, entry in mended.items()} == {
        str(path.relative_to(store)): content for path, content in before.items()
    }
    touched = {name for name in mended if mended[name][:2] != inodes[name][:2]}
    folders = {path.parent for path in harmed if path.parent.parent.name in ("lexical", "index", "tokenizer")}
    allowed = harmed | {path for path in before if path.parent in folders}
    assert {store / name for name in touched} <= allowed


def test_a_stale_temporary_is_named_and_removed_by_building(store):
    for path in (store / "chunks" / "a.safetensors", store / "index" / "b", store / "current.json"):
        left = temporary_name(path)
        if path.suffix:
            left.write_bytes(b"half")
        else:
            left.mkdir()
            (left / "index.faiss").write_bytes(b"half")
    assert len(verify_store(store)) == 3
    assert all("was left by an interrupted build" in str(found) for found in verify_store(store))
    build(store)
    assert verify_store(store) == []


def test_verify_changes_nothing(store):
    damage(files_of(store, "chunks")[0], "flipped")
    before = snapshot(store)
    assert len(verify_store(store)) == 1
    assert snapshot(store) == before


def test_a_damaged_store_names_the_file_and_the_cure_when_it_is_read(store):
    chunks = files_of(store, "chunks")[0]
    damage(chunks, "truncated")
    opened = Datastore.open(store, encoder=ENCODER)
    with pytest.raises(DamagedFileError, match=rf"{chunks.name} is cut.*build the store again"):
        opened.tokens(np.arange(opened.corpus.num_chunks))
    (index,) = [path for path in files_of(store, "index") if path.name == "index.faiss"]
    damage(index, "emptied")
    with pytest.raises(DamagedFileError, match=r"vector index .* cannot be opened .*build it again to mend it"):
        Datastore.open(store, encoder=ENCODER)


def test_no_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no store in"):
        verify_store(tmp_path / "none")
