"""Models with heads of their own are trained by `fit`, saved and loaded, as families are."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.rmt.small import random_tokens, small_config
from retentive import load_model, save_model
from retentive.data.batch import IGNORED, Batch
from retentive.models.rmt.classifier import RecurrentMemoryClassifier
from retentive.nucleotides import ReverseComplementTransformer
from retentive.training.run.fit import fit
from retentive.training.step.config import OptimizerConfig

VOCAB = small_config().vocab_size
KINDS: dict[str, Any] = {
    "texts": lambda: RecurrentMemoryClassifier(small_config(bidirectional=True), 2),
    "tokens": lambda: RecurrentMemoryClassifier(small_config(), 2, per_token=True),
    "strands": lambda: ReverseComplementTransformer(small_config(bidirectional=True), tuple(reversed(range(VOCAB)))),
}


def batch(kind: str) -> Batch:
    tokens = random_tokens(8, 12)
    labels = tokens % 2
    if kind == "texts":
        labels = torch.full_like(tokens, IGNORED)
        labels[:, -1] = tokens[:, 0] % 2
    return Batch(tokens=tokens, labels=labels, starts=torch.zeros_like(tokens, dtype=torch.bool))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_a_head_of_its_own_is_trained_saved_and_loaded(kind: str, tmp_path: Path):
    torch.manual_seed(0)
    model, example = KINDS[kind](), batch(kind)
    steps = fit(model, lambda number: example, steps=12, optimizer=OptimizerConfig(learning_rate=0.01))
    assert steps[-1].loss < 0.9 * steps[0].loss
    assert steps[0].num_labels == int((example.labels != IGNORED).sum())
    save_model(model.eval(), tmp_path)
    again = load_model(tmp_path)
    assert type(again) is type(model)
    assert again.config == model.config
    with torch.no_grad():
        assert torch.equal(again(example.tokens).logits, model(example.tokens).logits)
    with pytest.raises(TypeError, match="has no step, for it predicts no next token"):
        again.step(example.tokens[:, 0], again.initial_state(8))


def test_a_text_has_one_class():
    model, tokens = KINDS["texts"](), random_tokens(2, 9)
    labels = torch.full_like(tokens, IGNORED)
    labels[0, 3] = 1
    by_column = model(tokens, labels=labels).loss
    assert torch.equal(by_column, model(tokens, labels=torch.tensor([1, IGNORED])).loss)
    labels[0, 4] = 0
    with pytest.raises(ValueError, match="at most one class in each row, for a text has one, but a row has 2"):
        model(tokens, labels=labels)
