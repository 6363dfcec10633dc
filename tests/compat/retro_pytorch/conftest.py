"""A small BERT in place of the real one."""

from pathlib import Path

import pytest
import torch

from compat.retro_pytorch.small import VOCAB, WORDS
from retentive.compat.retro_pytorch import retrieval


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT with the special ids of the real one."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    names = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join([*names, "[", "]", "sep"]) + "\n")
    transformers.BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def small_bert(bert: Path):
    retrieval.use_bert(bert)
    yield
    retrieval.use_bert("bert-base-cased")
