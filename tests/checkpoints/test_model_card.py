"""The card of a saved model says what its folder tells, and nothing of other weights."""

import json
from pathlib import Path

import pytest

from laws.families import case_name, cases, small_model
from retentive.checkpoints import read_manifest, save_model
from retentive.checkpoints.model_card import MARK, TrainingData, model_card, save_model_card

DATA = TrainingData(source="novels", documents=12, tokens=3456, text_bytes=9999, steps=70, tokens_read=71_680)
WAY = {"bits_per_byte": 1.25, "standard_error": 0.01, "bytes": 4321}


def note_scores(folder: Path, weights: str, documents: int = 3) -> None:
    way = {**WAY, "coverage": {"documents": documents, "split": "heldout"}}
    windows = {**way, "method": "windows", "window": 512, "stride": 256}
    one_pass = {**way, "method": "one_pass", "bits_per_byte": 1.125, "standard_error": None}
    content = {"weights": weights, "evaluation": {"windows": windows, "one_pass": one_pass}}
    (folder / "evaluation.json").write_text(json.dumps(content))


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_card_is_written_with_every_model(family: str, changes: dict, tmp_path: Path):
    model = small_model(family, **changes)
    save_model(model, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card == model_card(tmp_path)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert f"# A {family} of {parameters:,} parameters" in card
    assert "(float64)" in card
    assert card.startswith(f"---\n{MARK}\nlibrary_name: retentive\n")


def test_data_and_scores_are_those_of_the_weights(tmp_path: Path):
    save_model(small_model("retnet"), tmp_path)
    assert "Not recorded." in model_card(tmp_path)
    assert "Not measured" in model_card(tmp_path)
    note_scores(tmp_path, read_manifest(tmp_path).weights_digest)
    save_model_card(tmp_path, DATA)
    card = (tmp_path / "README.md").read_text()
    for words in (
        "| text | novels |",
        "| documents | 12 |",
        "9,999 bytes, 3,456 tokens",
        "70 steps, 71,680 tokens read",
    ):
        assert words in card
    assert "| windows of 512 tokens, stride 256 | 1.2500 ± 0.0100 |" in card
    assert "| one pass, state carried along | 1.1250 |" in card
    assert "On 3 documents of 'heldout', 4,321 bytes." in card
    note_scores(tmp_path, read_manifest(tmp_path).weights_digest, documents=1)
    assert "On 1 document of 'heldout', 4,321 bytes." in model_card(tmp_path)
    save_model(small_model("retnet", seed=1), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "Not recorded." in card
    assert "1.2500" not in card


def test_a_card_that_a_person_took_over_is_left_alone(tmp_path: Path):
    save_model(small_model("retnet"), tmp_path)
    for mine in (b"mine", "ma \xe8".encode("latin-1")):
        (tmp_path / "README.md").write_bytes(mine)
        assert not save_model_card(tmp_path, DATA)
        save_model(small_model("retnet", seed=1), tmp_path)
        assert (tmp_path / "README.md").read_bytes() == mine
