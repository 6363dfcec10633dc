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
    assert {path.name for path in sound.iterdir()} == {*KINDS, "spare", "current.json"}


@pytest.mark.parametrize("kind", [*KINDS, "spare"])
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
    with pytest.raises(
        DamagedFileError, match=rf"{chunks.name} is cut.*build or sync the store from its source again, or"
    ):
        opened.tokens(np.arange(opened.corpus.num_chunks))
    (index,) = [path for path in files_of(store, "index") if path.name == "index.faiss"]
    damage(index, "emptied")
    with pytest.raises(DamagedFileError, match=r"index.faiss does not have the content .*: retentive index reindex"):
        Datastore.open(store, encoder=ENCODER).search("baa")


def test_every_flipped_byte_is_told_and_none_gives_another_answer(store):
    opened = Datastore.open(store, encoder=ENCODER)
    queries, config = ["baa bab", "loc tia"], CONFIG
    expected, table = opened.search(queries, k=3), opened.neighbours(config).ids(np.arange(9))
    random = np.random.default_rng(0)
    for kind in KINDS:
        for path in files_of(store, kind)[:3]:
            content = path.read_bytes()
            place = int(random.integers(len(content)))
            path.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << int(random.integers(8))]) + content[place + 1 :]
            )
            try:
                again = Datastore.open(store, encoder=ENCODER)
                found = again.search(queries, k=3)
                np.testing.assert_array_equal(found.tokens, expected.tokens)
                np.testing.assert_array_equal(found.scores, expected.scores)
                np.testing.assert_array_equal(again.neighbours(config).ids(np.arange(9)), table)
            except DamagedFileError:
                pass  # told, and no answer given
            except FileNotFoundError:
                assert kind == "tables", "a list of neighbours that is damaged counts as none"
            path.write_bytes(content)


def test_a_pointer_that_names_no_version_is_told_by_the_other_one(store):
    expected = Datastore.open(store, encoder=ENCODER).version
    for path in (store / "current.json", store / "spare" / "current.json"):
        for place in (14, 45):  # letters of the key: each flip names a version that may not be
            content = path.read_bytes()
            path.write_bytes(
                content[:place] + (b"0" if content[place : place + 1] != b"0" else b"1") + content[place + 1 :]
            )
            assert Datastore.open(store, encoder=ENCODER).version == expected
            (found,) = verify_store(store)
            assert str(found).startswith(f"{path} does not name the version: retentive index reindex")
            Datastore.open(store, encoder=ENCODER).reindex()
            assert verify_store(store) == []
            assert path.read_bytes() == content


def test_text_that_add_brought_is_mended_as_its_damage_says(store):
    extra = [("extra.txt", "baa bab loc " * 20)]
    Datastore.open(store, encoder=ENCODER).add(extra)
    (block,) = [block for block in Datastore.open(store, encoder=ENCODER).manifest.chunks if block.added]
    damage(store / "chunks" / f"{block.key}.safetensors", "flipped")
    read_block.cache_clear()
    (found,) = verify_store(store)
    assert str(found).endswith("add the documents of it again, which keeps all else")
    for ask in (lambda: build(store), lambda: Datastore.open(store, encoder=ENCODER).answers("loc", k=50)):
        with pytest.raises(DamagedFileError, match="or add its documents again where add brought them"):
            ask()
    Datastore.open(store, encoder=ENCODER).add(extra)
    assert verify_store(store) == []


def test_each_cure_that_verify_names_mends(store):
    for kind in ("vectors", "lexical", "index", "manifests", "spare"):
        victim = max(files_of(store, kind), key=lambda path: (path.stat().st_size, path.name))
        damage(victim, "flipped")
        read_block.cache_clear()
        (found,) = {one for one in verify_store(store) if one.path == victim}
        assert "reindex" in found.cure
        Datastore.open(store, encoder=ENCODER).reindex()
        assert [one for one in verify_store(store) if one.path == victim] == []


def test_text_that_was_added_is_mended_by_adding_it_again(store):
    opened = Datastore.open(store, encoder=ENCODER)
    opened.add([("more", "zebra okapi")])
    version = opened.version
    (block,) = [block for block in opened.manifest.chunks if block.added]
    victim = store / "chunks" / f"{block.key}.safetensors"
    damage(victim, "flipped")
    read_block.cache_clear()
    (found,) = [one for one in verify_store(store) if one.path == victim]
    assert "add the documents of it again" in found.cure
    with pytest.raises(DamagedFileError, match=r"its text is in no other file, so add the documents of it again"):
        opened.reindex()
    opened.add([("more", "zebra okapi")])
    assert opened.version == version
    assert verify_store(store) == []


def test_verify_beside_a_writer_reports_no_damage(store):
    from retentive.files import only_writer

    with only_writer(store):
        temporary_name(store / "chunks" / "a.safetensors").write_bytes(b"half")
        assert verify_store(store) == []
    assert len(verify_store(store)) == 1


def test_what_a_writer_is_in_the_middle_of_is_no_damage(store):
    from retentive.files import only_writer

    pointer, earlier = store / "spare" / "current.json", set(files_of(store, "lexical"))
    before = pointer.read_bytes()
    Datastore.open(store, encoder=ENCODER).add([("more", "zebra okapi")])
    used = {record.key for record in Datastore.open(store, encoder=ENCODER).manifest.indexes}
    gone = next(path for path in sorted(earlier) if path.parent.name not in used)
    with only_writer(store):
        now = pointer.read_bytes()
        pointer.write_bytes(before)  # a version is made current by two files, one after the other
        assert verify_store(store) == []
        pointer.write_bytes(now)
        gone.unlink()  # gc deletes earlier versions file by file
        assert verify_store(store) == []
    assert {found.path for found in verify_store(store)} & {gone, gone.parent}


def test_no_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no store in"):
        verify_store(tmp_path / "none")
