import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from docstring_parser import parse
from tokenizers import AddedToken

from retentive.data.prepare import PrepareConfig, prepare, python_library
from retentive.data.splitting import split_of
from retentive.data.token_store import TokenStore
from retentive.text.subword_tokenizer import train_bpe
from text.vocabularies import sentencepiece_style


def texts_of(store, split):
    """Each document's text by its name, decoded from its tokens."""
    tokens, offsets = store.tokens(split), store.document_offsets(split).tolist()
    found = [store.tokenizer.decode(tokens[a:b].tolist()) for a, b in pairwise(offsets)]
    return dict(zip(store.document_names(split), found, strict=True))


def all_texts(store):
    return texts_of(store, "train") | texts_of(store, "heldout")


@pytest.fixture
def folder(write_files, some_texts) -> Path:
    return write_files({f"part {i % 3}/{i}.txt": text for i, text in enumerate(some_texts)})


@pytest.mark.parametrize("options", [{}, {"tokenizer": "bpe", "vocab_size": 320}])
def test_decoding_the_store_gives_the_files_back(folder, tmp_path, options):
    report = prepare(PrepareConfig(source=folder, output=tmp_path / "store", **options))
    store = TokenStore.open(tmp_path / "store")
    store.verify()
    files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.txt")}
    assert all_texts(store) == files
    for split in ("train", "heldout"):
        texts = texts_of(store, split)
        assert store.document_bytes(split).tolist() == [len(text.encode()) for text in texts.values()]
        assert report.splits[split].documents == len(texts) > 0
        for text in texts.values():
            assert split_of(text.encode(), heldout_fraction=0.05, seed=0) == split
    assert report.problems == {}
    assert store.tokenizer.name == options.get("tokenizer", "bytes")


def test_the_store_does_not_depend_on_names_times_and_place_of_the_same_files(folder, tmp_path):
    one = prepare(PrepareConfig(source=folder, output=tmp_path / "one"))
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for number, path in enumerate(sorted(folder.rglob("*.txt"), reverse=True)):
        shutil.copy(path, copied / f"{number:03}.md")
    other = prepare(PrepareConfig(source=copied, output=tmp_path / "other"))
    stores = [TokenStore.open(report.output) for report in (one, other)]
    for split in ("train", "heldout"):
        texts = [sorted(texts_of(store, split).values()) for store in stores]
        assert texts[0] == texts[1]


def test_copies_of_a_document_are_on_one_side(write_files, tmp_path):
    names = {f"{copy}/{i}.txt": f"document {i}" for i in range(40) for copy in "ab"}
    prepare(PrepareConfig(source=write_files(names), output=tmp_path / "store", heldout_fraction=0.4))
    store = TokenStore.open(tmp_path / "store")
    assert not set(texts_of(store, "train").values()) & set(texts_of(store, "heldout").values())


def test_documents_are_held_out_by_name_and_copies_of_training_are_not(write_files, tmp_path):
    texts = {f"{release}/{name}.txt": f"text {name} of {release}" for release in ("1.0", "2.0") for name in "abc"}
    texts |= {
        "1.0/same.txt": "unchanged",
        "2.0/same.txt": "unchanged",
        "lines.jsonl": '{"text": "one"}\n{"text": "two"}\n',
    }
    folder = write_files(texts)
    asked = PrepareConfig(
        source=folder, output=tmp_path / "store", held_out="2.0/**, *.jsonl", tokenizer="bpe", vocab_size=300
    )
    report = prepare(asked)
    store = TokenStore.open(tmp_path / "store")
    assert set(store.document_names("heldout")) == {
        "2.0/a.txt",
        "2.0/b.txt",
        "2.0/c.txt",
        "lines.jsonl:1",
        "lines.jsonl:2",
    }
    assert set(store.document_names("train")) == {"1.0/a.txt", "1.0/b.txt", "1.0/c.txt", "1.0/same.txt"}
    assert report.problems == {"copy": 1}
    assert "2.0/same.txt: is a copy of a document of training" in "\n".join(report.lines())
    assert prepare(asked).seconds == 0
    with pytest.raises(ValueError, match=r"held_out '3\.0/\*\*' finds no document"):
        prepare(PrepareConfig(source=folder, output=tmp_path / "other", held_out="3.0/**"))
    with pytest.raises(ValueError, match="none is left to train on: give a glob that leaves some"):
        prepare(PrepareConfig(source=folder, output=tmp_path / "other", held_out="**/*"))
    with pytest.raises(ValueError, match=r"so heldout_fraction and split_seed mean nothing, but are 0\.1 and 0"):
        PrepareConfig(source=folder, output=tmp_path, held_out="*", heldout_fraction=0.1)
    with pytest.raises(ValueError, match="held_out must hold a glob"):
        PrepareConfig(source=folder, output=tmp_path, held_out=" ")


def test_problems_are_counted_shown_and_kept(write_files, tmp_path):
    source = write_files(
        {
            "a.txt": "good text",
            "b.txt": b"\xff",
            "c.jsonl": '{"text": "also good"}\n{"text": ',
            "d/e.txt": "",
            "f.txt": "more",
        }
    )
    report = prepare(PrepareConfig(source=source, output=tmp_path / "store", heldout_fraction=0.0))
    assert report.problems == {"bad_utf8": 1, "bad_json": 1, "empty": 1}
    assert report.splits["train"].documents == 3
    shown = "\n".join(report.lines())
    for expected in ("1 problems: bad_utf8", "b.txt: is not UTF-8", "c.jsonl:2: is not JSON", "d/e.txt: has no text"):
        assert expected in shown
    assert "no document is held out: raise heldout_fraction" in shown
    kept = list(TokenStore.open(tmp_path / "store").problems())
    assert [problem.name for problem in kept] == ["b.txt", "c.jsonl:2", "d/e.txt"]


def test_many_problems_are_shown_in_part_and_kept_whole(write_files, tmp_path):
    source = write_files({f"{i}.txt": "" for i in range(30)} | {"good.txt": "text"})
    report = prepare(PrepareConfig(source=source, output=tmp_path / "store", heldout_fraction=0.0))
    assert len(report.examples) == 10
    assert "and 20 more: they all stand in" in report.lines()[-1]
    assert len(list(TokenStore.open(tmp_path / "store").problems())) == 30


def test_all_kinds_of_files_in_one_folder(write_files, tmp_path):
    source = write_files({"a.txt": "plain", "b.jsonl": '{"body": "line 1"}\n{"body": "line 2"}\n'})
    pyarrow.parquet.write_table(pyarrow.table({"body": ["row 1", "row 2"]}), source / "c.parquet")
    report = prepare(PrepareConfig(source=source, output=tmp_path / "store", field="body", heldout_fraction=0.0))
    assert all_texts(TokenStore.open(report.output)) == {
        "a.txt": "plain",
        "b.jsonl:1": "line 1",
        "b.jsonl:2": "line 2",
        "c.parquet:1": "row 1",
        "c.parquet:2": "row 2",
    }


def test_one_file_cut_at_a_separator(write_files, tmp_path):
    source = write_files({"all.txt": "one<|endoftext|>two<|endoftext|>"}) / "all.txt"
    config = PrepareConfig(source=source, output=tmp_path / "store", separator="<|endoftext|>", heldout_fraction=0.0)
    assert all_texts(TokenStore.open(prepare(config).output)) == {"all.txt:1": "one", "all.txt:2": "two"}


def test_the_same_request_is_not_done_twice_and_another_is_refused(folder, tmp_path):
    config = PrepareConfig(source=folder, output=tmp_path / "store")
    first = prepare(config)
    manifest = (tmp_path / "store" / "manifest.json").stat()
    again = prepare(config)
    assert "already there, nothing done" in again.lines()[0]
    assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == manifest.st_mtime_ns
    assert (again.splits, again.tokenizer) == (first.splits, first.tokenizer)

    refused = pytest.raises(FileExistsError, match="already holds another token store")
    with refused:
        prepare(dataclasses.replace(config, heldout_fraction=0.2))
    (folder / "part 0" / "0.txt").write_text("changed")
    with refused:
        prepare(config)
    prepare(dataclasses.replace(config, overwrite=True))
    assert all_texts(TokenStore.open(tmp_path / "store"))["part 0/0.txt"] == "changed"


def test_a_damaged_store_is_made_again_with_overwrite(folder, tmp_path):
    config = PrepareConfig(source=folder, output=tmp_path / "store")
    prepare(config)
    store = TokenStore.open(tmp_path / "store")
    tokens = tmp_path / "store" / store.manifest.files["train-tokens"].path
    content = bytearray(tokens.read_bytes())
    content[0] ^= 1
    tokens.write_bytes(content)
    prepare(dataclasses.replace(config, overwrite=True))
    TokenStore.open(tmp_path / "store").verify()


def test_a_tokenizer_from_elsewhere(folder, tmp_path, some_texts):
    train_bpe(some_texts, vocab_size=320).save(tmp_path / "tokenizer")
    report = prepare(PrepareConfig(source=folder, output=tmp_path / "store", tokenizer=str(tmp_path / "tokenizer")))
    store = TokenStore.open(report.output)
    assert report.tokenizer == "bpe (320 ids)"
    assert sorted(all_texts(store).values()) == sorted(some_texts)
    path = tmp_path / "tokenizer" / "tokenizer.json"
    other = PrepareConfig(source=folder, output=tmp_path / "other", tokenizer=str(path), end_of_text="<|endoftext|>")
    assert prepare(other).tokenizer == "file (320 ids)"


@pytest.fixture
def changed_tokenizer(tmp_path):
    """The path of a tokenizer.json like our own BPE but for some changes."""

    def make(**changes):
        train_bpe(["cafe\u0301 ab ab"], vocab_size=270).save(tmp_path / "tokenizer")
        content = json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())
        (tmp_path / "changed.json").write_text(json.dumps(content | changes))
        return str(tmp_path / "changed.json")

    return make


def test_text_that_a_tokenizer_changes_is_reported_and_kept(write_files, tmp_path, changed_tokenizer):
    source = write_files({"a.txt": "cafe\u0301", "b.txt": "caf\u00e9", "c.txt": "plain"})
    path = changed_tokenizer(normalizer={"type": "NFC"})
    report = prepare(PrepareConfig(source=source, output=tmp_path / "store", tokenizer=path, heldout_fraction=0.0))
    assert report.problems == {"altered": 1}
    assert report.examples[0].name == "a.txt"
    assert report.splits["train"].documents == 3


def test_a_space_that_is_added_hides_no_byte_that_is_lost(write_files, tmp_path):
    library = sentencepiece_style()
    library.add_tokens([AddedToken("<tool>", lstrip=True, normalized=False)])
    (tmp_path / "tokenizer.json").write_text(library.to_str())
    source = write_files({"a.txt": "the <tool>", "b.txt": "the  <tool>", "c.txt": "the he", "d.txt": " the<tool>"})
    config = PrepareConfig(
        source=source, output=tmp_path / "store", tokenizer=str(tmp_path / "tokenizer.json"), heldout_fraction=0.0
    )
    report = prepare(config)
    assert report.problems == {"altered": 2}
    assert {one.name for one in TokenStore.open(report.output).problems()} == {"a.txt", "b.txt"}


def test_text_that_a_tokenizer_cannot_take_is_reported_and_left_out(write_files, tmp_path, changed_tokenizer):
    source = write_files({"a.txt": "x ab y", "b.txt": "plain"})
    ending = {"id": 270, "content": "ab", "special": False, "lstrip": False, "rstrip": False, "single_word": False}
    path = changed_tokenizer(added_tokens=[ending | {"normalized": False}])
    options = {"tokenizer": path, "end_of_text": "ab", "heldout_fraction": 0.0}
    report = prepare(PrepareConfig(source=source, output=tmp_path / "store", **options))
    assert report.problems == {"not_encodable": 1}
    assert "text holds 'ab', which this tokenizer turns into its end-of-text id" in report.examples[0].message
    assert list(all_texts(TokenStore.open(report.output)).values()) == ["plain"]


def test_a_vocabulary_is_learned_from_the_training_split_and_from_a_sample(tmp_path, write_files):
    texts = {f"{i}.txt": f"word{i} " * 50 for i in range(60)}
    source = write_files(texts)
    options = {"tokenizer": "bpe", "vocab_size": 2000, "heldout_fraction": 0.3}
    config = PrepareConfig(source=source, output=tmp_path / "all", **options)
    prepare(config)
    store = TokenStore.open(tmp_path / "all")

    def mean_tokens(split):
        return np.diff(store.document_offsets(split)).mean()

    # " word12 " that was seen in training is about two tokens, one that was not is three.
    assert mean_tokens("heldout") > 1.2 * mean_tokens("train")
    total = sum(map(len, texts.values()))
    small = dataclasses.replace(config, output=tmp_path / "sample", tokenizer_training_bytes=total // 4)
    prepare(small)
    sampled = TokenStore.open(tmp_path / "sample")
    assert 257 < sampled.tokenizer.vocab_size < store.tokenizer.vocab_size


def test_what_cannot_be_is_refused_by_name_rule_and_cure(tmp_path, write_files):
    source = write_files({"a.txt": "text"})

    def refused(kind, match, **options):
        with pytest.raises(kind, match=match):
            prepare(PrepareConfig(**{"source": source, "output": tmp_path / "store", **options}))
        assert not (tmp_path / "store").exists() or not list((tmp_path / "store").iterdir())

    refused(ValueError, "heldout_fraction must be from 0 to below 1, but is 1.0", heldout_fraction=1.0)
    refused(ValueError, "vocab_size must be given with tokenizer='bpe', for example 8192", tokenizer="bpe")
    refused(ValueError, "vocab_size is for tokenizer='bpe', but the tokenizer is 'bytes': leave it out", vocab_size=300)
    refused(ValueError, "end_of_text is for a tokenizer.json", end_of_text="</s>")
    refused(ValueError, "max_document_bytes must be at least 1 byte, but is 0", max_document_bytes=0)
    refused(ValueError, r"pattern '\*\.md' .* finds no file in", pattern="*.md")
    refused(ValueError, "output must not be inside source", output=source / "store")
    refused(FileNotFoundError, "absent' does not exist", source=tmp_path / "absent")
    refused(FileNotFoundError, "'bytess' is none of them", tokenizer="bytess")
    refused(ValueError, "at least 257 .* but is 100", tokenizer="bpe", vocab_size=100)
    refused(ValueError, "every document is held out.*another split_seed", heldout_fraction=1 - 1e-12)
    (source / "a.txt").write_bytes(b"\xff")
    refused(ValueError, r"no document of .* can be used \(1 bad_utf8; a.txt: is not UTF-8")


def test_every_option_is_documented():
    documented = {parameter.arg_name: parameter.description for parameter in parse(PrepareConfig.__doc__).params}
    assert list(documented) == [field.name for field in dataclasses.fields(PrepareConfig)]
    assert all(documented.values())


def test_the_python_library_leaves_out_tests_and_installed_packages(tmp_path):
    config = python_library(tmp_path / "store")
    report = prepare(config)
    names = [document.name for document in TokenStore.open(report.output).documents]
    assert "argparse.py" in names
    assert "json/decoder.py" in names
    assert not [name for name in names if {"site-packages", "test", "tests"} & set(name.split("/"))]
    assert report.splits["heldout"].documents > 0


def test_an_output_that_cannot_be_written_is_refused_before_a_text_is_read(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("some text")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("retentive.data.prepare.read_documents", None)
    with pytest.raises(ValueError, match=r"output must be a folder, but .*file is a file: choose another name"):
        prepare(PrepareConfig(source=source, output=tmp_path / "file" / "store"))
