"""A model goes with the tokenizer that it was saved with, wherever both are loaded from one folder."""

from pathlib import Path

import pytest
import torch

from laws.families import small_model
from retentive.checkpoints import save_model
from retentive.checkpoints.weights import load_own_tokenizer
from retentive.cli.main import main
from retentive.errors import DamagedFileError
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.text.subword_tokenizer import train_bpe


def test_another_tokenizer_in_a_models_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = small_model("retnet", dtype=torch.float32, vocab_size=300)
    save_model(model, tmp_path, ByteTokenizer())
    assert load_own_tokenizer(tmp_path).encode("a") == [97]
    train_bpe(["some text", "some more"], vocab_size=280).save(tmp_path)
    with pytest.raises(DamagedFileError, match="holds another tokenizer than its model was saved with"):
        load_own_tokenizer(tmp_path)
    with pytest.raises(SystemExit):
        main(["generate", str(tmp_path), "--prompt=a", "--max-new-tokens=1"])
    assert "holds another tokenizer than its model was saved with" in capsys.readouterr().err
    save_model(model, tmp_path)  # nobody says which tokenizer is its own
    assert load_own_tokenizer(tmp_path).encode("some") != list(b"some")
