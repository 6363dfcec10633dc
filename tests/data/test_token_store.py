import inspect
import json
import pickle
import shutil
from itertools import pairwise

import numpy as np
import pytest

from retentive.data.manifest import MANIFEST_FILE, Manifest
from retentive.data.sources.documents import Problem
from retentive.data.token_store import TokenStore
from retentive.data.token_store_writer import TokenStoreWriter
from retentive.errors import DamagedFileError, MismatchError
from retentive.text.byte_tokenizer import ByteTokenizer

TEXTS = {"train": ["first", "数え", "third document"], "heldout": ["held out", "é"]}
PROBLEM = Problem(name="bad.txt", kind="bad_utf8", message="is not UTF-8")


def write_store(folder, texts=TEXTS, **arguments):
    tokenizer = ByteTokenizer()
    with TokenStoreWriter(folder, tokenizer, **arguments) as writer:
        for split, documents in texts.items():
            for number, text in enumerate(documents):
                (ids,) = tokenizer.encode_batch([text])
                writer.add(f"{split} {number}", ids, num_bytes=len(text.encode()), split=split)
        writer.report(PROBLEM)
        return writer.finish()


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "store")


def snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in [folder, *folder.rglob("*")]
    }


def test_what_was_written_is_read(store):
    reopened = TokenStore.open(str(store.folder))
    for split, texts in TEXTS.items():
        tokens, offsets = reopened.tokens(split), reopened.document_offsets(split)
        assert tokens.dtype == np.uint16
        assert (offsets[0], offsets[-1], len(offsets)) == (0, len(tokens), len(texts) + 1)
        found = [tokens[begin:end].tolist() for begin, end in pairwise(offsets)]
        assert all(ids[-1] == 256 for ids in found)
        assert [reopened.tokenizer.decode(ids) for ids in found] == texts
        assert reopened.document_bytes(split).tolist() == [len(text.encode()) for text in texts]
        assert reopened.document_names(split) == [f"{split} {i}" for i in range(len(texts))]
        counts = reopened.manifest.splits[split]
        assert (counts.documents, counts.tokens) == (len(texts), len(tokens))
        assert counts.text_bytes == sum(len(text.encode()) for text in texts)
    assert list(reopened.problems()) == [PROBLEM]
    assert reopened.manifest.problems == {"bad_utf8": 1}


def test_documents_by_number(store):
    assert len(store.documents) == 5
    assert [one.name for one in store.documents] == ["train 0", "train 1", "train 2", "heldout 0", "heldout 1"]
    last = store.documents[-1]
    assert (last.name, last.split, last.index, last.num_tokens, last.num_bytes) == ("heldout 1", "heldout", 1, 3, 2)
    assert store.documents[3:] == [store.documents[3], last]
    with pytest.raises(IndexError):
        store.documents[5]


def test_ids_are_stored_in_the_smallest_type_that_fits(store_of):
    for vocab_size, dtype in ((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)):
        store = store_of([3], vocab_size=vocab_size)
        assert store.tokens("train").dtype == dtype
        assert store.tokens("train").tolist() == [0, 1, 2, vocab_size - 1]


def test_an_empty_split_has_no_tokens(store_of):
    store = store_of([3])
    assert len(store.tokens("heldout")) == 0
    assert store.document_offsets("heldout").tolist() == [0]
    assert store.document_names("heldout") == []


def test_reading_writes_nothing_and_cannot(store):
    before = snapshot(store.folder)
    reader = TokenStore.open(store.folder)
    reader.verify()
    assert len(reader.documents) == 5
    assert reader.tokenizer.decode(reader.tokens("train")[:5].tolist()) == "first"
    with pytest.raises(ValueError, match="read-only"):
        reader.tokens("train")[0] = 0
    assert snapshot(store.folder) == before


def test_another_process_gets_the_place_and_not_the_tokens(store):
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    assert pickle.loads(pickled).tokens("train").tolist() == store.tokens("train").tolist()  # noqa: S301


def test_a_split_that_is_none_is_refused(store):
    # Without the type checker of the test run, as a user's call has it.
    path_of = inspect.unwrap(TokenStore._path)
    with pytest.raises(ValueError, match="split must be 'train' or 'heldout', but is 'test'"):
        path_of(store, "test", "tokens")


@pytest.mark.parametrize("change", ["truncate", "lengthen", "remove", "empty"])
def test_a_file_of_the_wrong_size_is_named(store, change):
    for record in store.manifest.files.values():
        path = store.folder / record.path
        content = path.read_bytes()
        changed = {"truncate": content[:-1], "lengthen": content + b"\0", "remove": None, "empty": b""}[change]
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)
        with pytest.raises(DamagedFileError, match=rf"{path.name} (is missing|has .* bytes instead of .*): prepare"):
            TokenStore.open(store.folder)
        path.write_bytes(content)
    TokenStore.open(store.folder).verify()


def test_one_flipped_bit_is_found_and_every_damaged_file_named(store):
    store.verify()
    damaged = []
    for record in store.manifest.files.values():
        path = store.folder / record.path
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        damaged.append(path.name)
        with pytest.raises(
            DamagedFileError, match="the content differs from its checksum; prepare the text again"
        ) as e:
            TokenStore.open(store.folder).verify()
        assert all(name in str(e.value) for name in damaged)


def test_one_split_can_be_checked_alone(store):
    path = store.folder / store.manifest.files["train-tokens"].path
    content = path.read_bytes()
    path.write_bytes(content[::-1])
    store.verify("heldout")
    for splits in (("train",), ("train", "heldout"), ()):
        with pytest.raises(DamagedFileError, match=path.name):
            store.verify(*splits)


def test_swapped_files_are_found(store):
    one, other = (store.folder / store.manifest.files[f"{split}-bytes"].path for split in ("train", "heldout"))
    content = one.read_bytes()
    one.write_bytes(content[::-1])
    with pytest.raises(DamagedFileError, match=one.name):
        TokenStore.open(store.folder).verify()
    assert other.exists()


def test_a_store_without_manifest_is_incomplete(store, tmp_path):
    (store.folder / MANIFEST_FILE).unlink()
    with pytest.raises(DamagedFileError, match=r"no complete token store \(manifest\.json, .* is missing\): prep"):
        TokenStore.open(store.folder)
    with pytest.raises(FileNotFoundError, match=r"there is no token store .*absent': make one with"):
        TokenStore.open(tmp_path / "absent")


def test_a_damaged_or_foreign_manifest_is_refused(store):
    path = store.folder / MANIFEST_FILE
    content = json.loads(path.read_text())

    def refused(kind, match, changed):
        path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
        with pytest.raises(kind, match=match):
            TokenStore.open(store.folder)

    refused(DamagedFileError, "is not JSON", path.read_text()[:-9])
    refused(DamagedFileError, "is not the manifest of a token store", {"name": "an app"})
    refused(DamagedFileError, "must hold a JSON object, but holds a list", "[1]")
    refused(MismatchError, "format version 2, but this retentive reads 1", content | {"format_version": 2})
    refused(DamagedFileError, "was altered after it was written", content | {"dtype": "<u4"})
    path.write_text(json.dumps(content, indent=4, sort_keys=True))
    TokenStore.open(store.folder).verify()


def test_another_tokenizer_in_the_store_is_refused(store):
    changed = Manifest.read(store.folder)
    record = {**json.loads((store.folder / MANIFEST_FILE).read_text())["tokenizer"], "fingerprint": "0" * 64}
    other = type(changed.tokenizer)(**record)
    names = ("dtype", "splits", "files", "request", "problems")
    Manifest(tokenizer=other, **{name: getattr(changed, name) for name in names}).write(store.folder)
    with pytest.raises(MismatchError, match="holds another tokenizer than the one of the tokens"):
        _ = TokenStore.open(store.folder).tokenizer


def test_a_store_can_be_moved(store, tmp_path):
    shutil.move(store.folder, tmp_path / "elsewhere")
    moved = TokenStore.open(tmp_path / "elsewhere")
    moved.verify()
    assert moved.tokenizer.name == "bytes"
