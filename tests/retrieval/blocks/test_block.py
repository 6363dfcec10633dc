import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from retentive.errors import DamagedFileError
from retentive.retrieval.blocks.block import block_path, check_block, key_of, read_block, write_block
from retrieval.texts import damage

DTYPES = ["u1", "u2", "u4", "u8", "i8", "f2", "f4"]


@pytest.fixture(autouse=True)
def _fresh_cache():
    read_block.cache_clear()


def example():
    return {
        "tokens": np.arange(12, dtype=np.uint16).reshape(3, 4),
        "names": np.frombuffer(b"abc", dtype=np.uint8),
        "starts": np.array([0, 2, 3]),
        "nothing": np.zeros((0, 5), dtype=np.float32),
    }


@settings(deadline=None)
@given(data=st.data())
def test_what_is_written_is_read(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("blocks")
    arrays = {}
    for name in data.draw(st.lists(st.text("abcxyz", min_size=1, max_size=5), unique=True, max_size=4)):
        shape = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
        dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
        arrays[name] = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    checksum = write_block(folder, "kind", key_of("a"), arrays)
    block = read_block(folder, "kind", key_of("a"))
    assert block.checksum == checksum
    assert check_block(folder, "kind", key_of("a")) == (None, checksum)
    assert set(block.arrays) == set(arrays)
    for name, array in arrays.items():
        assert block.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(block.arrays[name], array)


def test_other_tools_can_read_a_block(tmp_path):
    write_block(tmp_path, "kind", "k", example())
    found = load_file(block_path(tmp_path, "kind", "k"))
    assert set(found) == {*example(), "checksum"}
    np.testing.assert_array_equal(found["tokens"], example()["tokens"])


def test_the_same_arrays_give_the_same_bytes(tmp_path):
    arrays = example()
    write_block(tmp_path / "a", "kind", "k", arrays)
    write_block(tmp_path / "b", "kind", "k", dict(reversed(arrays.items())))
    assert block_path(tmp_path / "a", "kind", "k").read_bytes() == block_path(tmp_path / "b", "kind", "k").read_bytes()


def test_arrays_of_a_block_cannot_be_changed(tmp_path):
    write_block(tmp_path, "kind", "k", example())
    with pytest.raises(ValueError, match="read-only"):
        read_block(tmp_path, "kind", "k").arrays["tokens"][0] = 1


@pytest.mark.parametrize("how", ["truncated", "flipped", "zeroed", "emptied", "missing", "swapped"])
def test_damage_is_found(tmp_path, how):
    for key in "ab":
        write_block(tmp_path, "kind", key, {"key": np.frombuffer(key.encode() * 9, dtype=np.uint8)})
    paths = [block_path(tmp_path, "kind", key) for key in "ab"]
    damage(paths[0], how, paths)
    problem, _ = check_block(tmp_path, "kind", "a")
    assert problem is not None
    if how != "flipped":  # opening does not read the content
        with pytest.raises(DamagedFileError, match="build the store again"):
            read_block(tmp_path, "kind", "a")


def test_every_single_byte_is_covered(tmp_path):
    write_block(tmp_path, "kind", "k", {"numbers": np.arange(4, dtype=np.uint8)})
    path = block_path(tmp_path, "kind", "k")
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x10]) + sound[place + 1 :])
        assert check_block(tmp_path, "kind", "k")[0] is not None, place


def test_keys_depend_on_every_part_and_its_place():
    keys = {key_of("a", 1), key_of("a", 2), key_of(1, "a"), key_of("a1"), key_of("a", [1]), key_of("a", {"x": 1})}
    assert len(keys) == 6
    assert key_of({"x": 1, "y": 2}) == key_of({"y": 2, "x": 1})
