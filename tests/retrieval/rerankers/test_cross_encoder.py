"""A cross-encoder beside transformers' own calls."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertForSequenceClassification

from retentive.errors import DamagedFileError
from retentive.retrieval.rerankers import CrossEncoder, LateInteraction, open_reranker
from retrieval.small_models import make_classifier, make_model
from retrieval.texts import make_documents

QUERY = "baa bab loc"
PASSAGES = [text or "tia" for _, text in make_documents(5, words=12)]
LONG = " ".join(PASSAGES * 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_classifier(tmp_path_factory.mktemp("models") / "cross")


@pytest.mark.parametrize("labels", [1, 2])
def test_scores_are_those_of_transformers_for_each_pair_alone(tmp_path, labels):
    made = make_classifier(tmp_path / "cross", labels=labels)
    network = BertForSequenceClassification.from_pretrained(made).eval()
    tokenizer = AutoTokenizer.from_pretrained(made)
    tokenizer.backend_tokenizer.no_truncation()
    wanted = []
    for passage in PASSAGES:
        read = tokenizer(QUERY, passage, return_tensors="pt")
        with torch.inference_mode():
            logits = network(**read).logits[0]
        wanted.append(float(logits[0] if labels == 1 else logits[1] - logits[0]))
    scores = CrossEncoder(made, batch_size=2).scores(QUERY, PASSAGES)
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    assert len(set(np.round(scores, 6).tolist())) > 1


def test_a_passage_beyond_the_limit_counts_by_its_best_piece(folder):
    reader = CrossEncoder(folder)
    ids = reader._words.encode(LONG, add_special_tokens=False).ids
    assert len(ids) > 160
    room = 80 - len(reader._words.encode(QUERY, "").ids)
    words = LONG.split()
    pieces, piece = [], []
    for word in words:  # the tests' words are a token or two each
        if len(reader._words.encode(" ".join([*piece, word]), add_special_tokens=False).ids) > room:
            pieces.append(" ".join(piece))
            piece = []
        piece.append(word)
    (whole,) = reader.scores(QUERY, [LONG])
    apart = reader.scores(QUERY, [*pieces, " ".join(piece)])
    assert whole == pytest.approx(apart.max(), abs=0.05)  # words may be cut at other places
    with pytest.raises(ValueError, match=r"a query may have 79 tokens .* ask in fewer words"):
        reader.scores(LONG, ["tia"])
    assert reader.scores(QUERY, []).shape == (0,)


def test_special_tokens_in_a_text_are_text(folder):
    reader = CrossEncoder(folder)
    assert reader._words.encode("[SEP]", add_special_tokens=False).ids != [3]


def test_folders_that_are_no_cross_encoder_are_refused(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="reranker must be the folder of a model"):
        open_reranker(tmp_path / "none")
    plain = make_model(tmp_path / "plain")
    assert isinstance(open_reranker(plain), LateInteraction)
    with pytest.raises(ValueError, match=r"must be for SequenceClassification, but is for .*BertModel"):
        CrossEncoder(plain)
    three = make_classifier(tmp_path / "three", labels=3)
    with pytest.raises(ValueError, match="must have one label or two, but has 3"):
        open_reranker(three).scores(QUERY, PASSAGES)
    # transformers would fill a missing head with random numbers.
    headless = make_classifier(tmp_path / "headless")
    weights = load_file(headless / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "classifier" not in name}
    save_file(kept, headless / "model.safetensors", {"format": "pt"})
    with pytest.raises(DamagedFileError, match=r"lacks weights, classifier\.bias first"):
        CrossEncoder(headless).scores(QUERY, PASSAGES)
    pickled = make_classifier(tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="must have its weights in safetensors"):
        CrossEncoder(pickled)
    code = Path(shutil.copytree(folder, tmp_path / "code"))
    config = json.loads((code / "config.json").read_text()) | {"auto_map": {"AutoConfig": "evil.Config"}}
    (code / "config.json").write_text(json.dumps(config))
    (code / "evil.py").write_text("raise SystemExit('code beside weights was run')\n")
    np.testing.assert_allclose(CrossEncoder(code).scores(QUERY, PASSAGES), CrossEncoder(folder).scores(QUERY, PASSAGES))
