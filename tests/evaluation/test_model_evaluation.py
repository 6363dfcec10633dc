"""A saved model on a saved store, as the command line asks for it."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from laws.families import small_model
from retentive.checkpoints import save_model
from retentive.data.token_store import TokenStore
from retentive.errors import DamagedFileError, MismatchError
from retentive.evaluation.measures.bits_per_byte import bits_per_byte_in_one_pass, bits_per_byte_in_windows
from retentive.evaluation.measures.documents import select_documents
from retentive.evaluation.measures.loss_by_position import loss_by_position
from retentive.evaluation.model_evaluation import EvaluateConfig, evaluate, evaluate_model
from retentive.models.base import DecoderModel
from without_hook import errors_of


@pytest.fixture(scope="module")
def model() -> DecoderModel:
    return small_model("retnet", vocab_size=257)


@pytest.fixture(scope="module")
def checkpoint(model: DecoderModel, byte_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(model, folder, byte_store.tokenizer)
    return folder


def test_a_saved_model_is_measured_and_the_numbers_written_down(
    model: DecoderModel, checkpoint: Path, byte_store: TokenStore
):
    config = EvaluateConfig(checkpoint=checkpoint, store=byte_store.folder, window=8, stride=4, batch_size=2)
    report = evaluate(config)
    documents = select_documents(byte_store)
    windows = bits_per_byte_in_windows(model, documents, window=8, stride=4)
    one_pass = bits_per_byte_in_one_pass(model, documents)
    found = report.evaluation
    assert found.windows.bits_per_byte == pytest.approx(windows.bits_per_byte, rel=1e-12)
    assert found.one_pass is not None
    assert found.one_pass.bits_per_byte == pytest.approx(one_pass.bits_per_byte, rel=1e-12)
    assert found.by_position is not None
    expected = loss_by_position(model, documents).buckets
    assert [asdict(bucket) for bucket in found.by_position.buckets] == [
        pytest.approx(asdict(bucket), rel=1e-11) for bucket in expected
    ]
    assert report.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (report.family, report.tokenizer) == ("retnet", "bytes (257 ids)")
    assert report.output == checkpoint / "evaluation.json"
    written = json.loads(report.output.read_text("utf-8"))
    assert written["evaluation"]["windows"]["bits_per_byte"] == found.windows.bits_per_byte
    assert written["evaluation"]["by_position"]["buckets"][1]["tokens"] == found.by_position.buckets[1].tokens
    assert written["config"]["window"] == 8
    assert set(written["machine"]) >= {"processor", "system", "software"}


def test_the_table_names_units_coverage_and_errors(checkpoint: Path, byte_store: TokenStore, tmp_path: Path):
    output = tmp_path / "new" / "numbers.json"
    config = EvaluateConfig(checkpoint=checkpoint, store=byte_store.folder, output=output, max_documents=3)
    report = evaluate(config)
    text = "\n".join(report.lines())
    windows = report.evaluation.windows
    for words in (
        "a sample of 3 of 6 documents of 'heldout'",
        f"{windows.bits_per_byte:.4f} ± {windows.standard_error:.4f}",
        "windows of 2,048, stride 1,024",
        "one pass, state carried along",
        "nats per token",
        "± is one standard error, over documents",
        str(output),
    ):
        assert words in text
    assert output.exists()


def test_one_pass_can_be_left_out(model: DecoderModel, byte_store: TokenStore):
    found = evaluate_model(model, select_documents(byte_store), one_pass=False)
    assert (found.one_pass, found.by_position) == (None, None)
    assert found.bits_per_byte == (found.windows,)


def test_limits_reach_the_documents(checkpoint: Path, byte_store: TokenStore, tmp_path: Path):
    limits = {"max_documents": 4, "max_bytes": 60, "max_document_bytes": 40}
    config = EvaluateConfig(checkpoint=checkpoint, store=byte_store.folder, output=tmp_path / "found.json", **limits)
    coverage = evaluate(config).evaluation.windows.coverage
    assert coverage == select_documents(byte_store, **limits).coverage
    assert coverage.documents < 6


def test_a_model_of_another_tokenizer_is_refused(checkpoint: Path, bpe_store: TokenStore):
    with pytest.raises(MismatchError, match=r"was trained with another tokenizer than that of .* --tokenizer"):
        evaluate(EvaluateConfig(checkpoint=checkpoint, store=bpe_store.folder))


def test_what_is_not_there_is_named(checkpoint: Path, byte_store: TokenStore, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"there is no token store .*nowhere"):
        evaluate(EvaluateConfig(checkpoint=checkpoint, store=tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate(EvaluateConfig(checkpoint=tmp_path / "nowhere", store=byte_store.folder))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be at least 1, but is 0"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, but is 0"),
        ({"window": 8, "stride": 9}, "stride must be at most window = 8 tokens, .* but is 9"),
        ({"max_bytes": 0}, "max_bytes must be at least 1, or null for all, but is 0"),
        ({"max_document_bytes": -1}, "max_document_bytes must be at least 1, or null for all, but is -1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(checkpoint=Path("model"), store=Path("store"), **options)


def test_choices_that_there_are_not_are_refused():
    target = "retentive.evaluation.model_evaluation:EvaluateConfig"
    folders = {"checkpoint": {"path": "m"}, "store": {"path": "s"}}
    split, device = errors_of([(target, {**folders, "split": "test"}), (target, {**folders, "device": "tpu"})])
    assert split == ("ValueError", "split must be 'train' or 'heldout', but is 'test'.")
    assert device == ("ValueError", "device must be 'auto', 'cpu' or 'cuda', but is 'tpu'.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(checkpoint: Path, byte_store: TokenStore):
    with pytest.raises(ValueError, match="device must be 'cpu' or 'auto' on this machine"):
        evaluate(EvaluateConfig(checkpoint=checkpoint, store=byte_store.folder, device="cuda"))


def test_held_out_tokens_that_were_altered_are_not_measured(checkpoint: Path, byte_store: TokenStore, tmp_path: Path):
    shutil.copytree(byte_store.folder, tmp_path / "store")
    files = byte_store.manifest.files
    config = EvaluateConfig(checkpoint=checkpoint, store=tmp_path / "store", window=8, stride=4)
    for split in ("train", "heldout"):
        path = tmp_path / "store" / files[f"{split}-tokens"].path
        path.write_bytes(path.read_bytes()[::-1])
        if split == "train":
            evaluate(config)  # reads nothing of it
    with pytest.raises(DamagedFileError, match=r"heldout-tokens.*\.bin: the content differs from its checksum"):
        evaluate(config)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    checkpoint: Path, byte_store: TokenStore, tmp_path: Path
):
    (tmp_path / "file").write_text("")
    for output, message in (
        (tmp_path, r"output must be a file, but .* is a folder: give .*evaluation\.json"),
        (tmp_path / "file" / "e.json", r"output must be a file in a folder, but .*file is a file"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(EvaluateConfig(checkpoint=checkpoint, store=byte_store.folder, output=output))
