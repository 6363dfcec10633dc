"""What the demo makes of any text, and of a folder that holds an earlier one's."""

from pathlib import Path

import pytest

from laws.families import small_config
from retentive.data.prepare import PrepareConfig, prepare
from retentive.errors import MismatchError
from retentive.experiments.demo import training
from retentive.experiments.demo.config import DemoConfig
from retentive.experiments.demo.contenders import Contender
from retentive.experiments.demo.own_folders import NOTES
from retentive.training.run.config import DataConfig

SENTENCES = "A line of text that goes on and on, number {}, and says little.\n"


def text_of(folder: Path, *documents: str) -> Path:
    folder.mkdir()
    for number, text in enumerate(documents):
        (folder / f"{number}.txt").write_text(text)
    return folder


def lines(count: int, first: int = 0) -> str:
    return "".join(SENTENCES.format(number) for number in range(first, first + count))


@pytest.mark.parametrize("documents", [2, 3, 30])
def test_a_few_documents_are_split_so_that_one_is_held_out(tmp_path: Path, documents: int):
    corpus = text_of(tmp_path / "text", *(lines(100, 1000 * number) for number in range(documents)))
    store = training.prepare_store(DemoConfig(corpus=corpus, output=tmp_path / "demo", vocab_size=300))
    found = store.manifest.splits
    assert found["heldout"].documents >= 1
    assert found["train"].documents + found["heldout"].documents == documents
    assert found["train"].documents >= 1


@pytest.mark.parametrize(
    ("text", "gap"),
    [
        ("\n\n\n".join(lines(9, 10 * part) for part in range(80)), "\\n\\n\\n"),
        ("\n\n\n".join([lines(9), lines(9, 50), lines(90, 99)]), "\\n"),  # three pieces are too few
        (lines(200), "\\n"),
    ],
)
def test_one_document_is_cut_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, gap: str):
    corpus = tmp_path / "one.txt"
    corpus.write_text(text)
    store = training.prepare_store(DemoConfig(corpus=corpus, output=tmp_path / "demo", vocab_size=300))
    assert f"one.txt is one document: it is cut into many at '{gap}'" in capsys.readouterr().out
    assert all(record.documents >= 1 for record in store.manifest.splits.values())


def test_what_cannot_be_cut_is_refused_at_once(tmp_path: Path):
    corpus = tmp_path / "one.txt"
    corpus.write_text("a single line " * 1000)
    with pytest.raises(ValueError, match=r"two different documents at least.*one\.txt has one.*: give more text"):
        training.prepare_store(DemoConfig(corpus=corpus, output=tmp_path / "demo"))
    assert not (tmp_path / "demo").exists()
    copies = text_of(tmp_path / "copies", "the same", "the same")
    with pytest.raises(ValueError, match="two different documents at least"):
        training.prepare_store(DemoConfig(corpus=copies, output=tmp_path / "demo"))
    little = text_of(tmp_path / "little", "a few words", "and a few more")
    with pytest.raises(ValueError, match=r"corpus must have at least 512 tokens to train on, but has \d+: give more"):
        training.prepare_store(DemoConfig(corpus=little, output=tmp_path / "demo"))


def test_another_text_makes_store_and_runs_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "DATA", DataConfig(window=16, batch_size=2))
    small = Contender("retnet", "RetNet", lambda size: small_config("retnet", vocab_size=size))
    monkeypatch.setattr(training, "CONTENDERS", (small,))
    trained: list[str] = []
    for name, minutes in (("a", 1e-6), ("a", 1e-6), ("b", 1e-6), ("b", 2e-6)):
        corpus = tmp_path / name
        if not corpus.exists():
            text_of(corpus, *(lines(30, ord(name) * 10_000 + 1000 * number) for number in range(3)))
        config = DemoConfig(corpus=corpus, output=tmp_path / "demo", vocab_size=300, minutes=minutes)
        store = training.prepare_store(config)
        training.train_contender(small, config, store)
        trained.append(capsys.readouterr().out)
    assert ["store holds another text: it is made anew" in out for out in trained] == [False, False, True, False]
    again = ["retnet was trained on another text, or for another time: it is made anew" in out for out in trained]
    assert again[:3] == [False, False, True]
    assert "gone on from step 20" in trained[1], "the same text goes on from there"


def test_what_is_not_the_demos_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one, other = (text_of(tmp_path / name, lines(100), lines(100, first)) for name, first in (("a", 500), ("b", 900)))
    prepare(PrepareConfig(source=one, output=tmp_path / "mine" / "store"))
    for _ in range(2):  # the second time the demo's notes are there
        with pytest.raises(FileExistsError, match="already holds another token store"):
            training.prepare_store(DemoConfig(corpus=other, output=tmp_path / "mine", vocab_size=300))
    monkeypatch.setattr(training, "DATA", DataConfig(window=16, batch_size=2))
    small = Contender("retnet", "RetNet", lambda size: small_config("retnet", vocab_size=size))
    monkeypatch.setattr(training, "CONTENDERS", (small,))
    config = DemoConfig(corpus=one, output=tmp_path / "runs", vocab_size=300, minutes=1e-6)
    store = training.prepare_store(config)
    training.train_contender(small, config, store)
    notes = tmp_path / "runs" / NOTES
    notes.write_text(notes.read_text().replace('"retnet"', '"another"'))  # as if another command had made that run
    store = training.prepare_store(DemoConfig(corpus=other, output=tmp_path / "runs", vocab_size=300, minutes=1e-6))
    with pytest.raises(MismatchError, match="begun with another configuration"):
        training.train_contender(small, config, store)
