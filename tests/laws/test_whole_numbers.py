"""Weights of 8 and 4 bits: every family computes about the same with them, and is saved, loaded and gone on with."""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from laws.families import beside, case_name, cases, random_tokens, small_config, small_model
from retentive import generate
from retentive.checkpoints import load_model, load_state, save_model, save_state
from retentive.data.token_store import TokenStore
from retentive.errors import MismatchError
from retentive.layers.quantised import QuantisationConfig, QuantisedEmbedding, QuantisedLinear
from retentive.models.base import DecoderModel
from retentive.models.fingerprint import weights_fingerprint
from retentive.models.quantise import quantise
from retentive.models.registry import build
from retentive.training.run.config import TrainConfig
from retentive.training.run.first_model import check_first_model
from retentive.training.run.fit import fit

EIGHT, FOUR = QuantisationConfig(bits=8), QuantisationConfig(bits=4)


def fitting(**changes) -> DecoderModel:
    """A model whose shapes suit 4 bits, and a head of its own or a tied one."""
    sizes = {"vocab_size": 48, "hidden_size": 64, "num_layers": 2, "num_heads": 2}
    torch.manual_seed(0)
    return build(small_config("retnet", **(sizes | changes))).eval()


@pytest.mark.parametrize(("family", "changes"), cases(), ids=case_name)
def test_a_model_of_eight_bits_is_nearly_the_model(family: str, changes: dict):
    model, tokens = small_model(family, dtype=torch.float32, **changes), random_tokens(2, 9)
    with torch.no_grad():
        expected = model(tokens, labels=tokens, **beside(model, tokens))
        assert quantise(model, EIGHT) == []
        found = model(tokens, labels=tokens, **beside(model, tokens))
    assert not any(type(module) in (nn.Linear, nn.Embedding) for module in model.modules())
    assert (found.logits - expected.logits).abs().mean() < 0.05 * expected.logits.abs().mean()
    assert abs(float(found.loss - expected.loss)) < 0.05
    result = generate(model, tokens, max_new_tokens=3)
    with torch.no_grad():
        whole = model(torch.cat((tokens, torch.stack(result.tokens)), 1)).logits[:, 8:-1].argmax(-1)
    assert (whole == torch.stack(result.tokens)).float().mean() > 0.6  # few rows and many round otherwise


@pytest.mark.parametrize("config", [EIGHT, FOUR], ids=["8", "4"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "a head"])
def test_it_is_saved_and_loaded_without_floats(config: QuantisationConfig, tied: bool, tmp_path: Path):
    model = fitting(tie_embeddings=tied)
    before = sum(parameter.nbytes for parameter in model.parameters())
    quantise(model, config)
    save_model(model, tmp_path)
    assert (tmp_path / "config.json").read_text().count('"bits"') == 1
    loaded = load_model(tmp_path)
    assert loaded.quantisation == config
    kinds = {type(module) for module in loaded.modules() if hasattr(module, "is_quantised")}
    assert kinds == {QuantisedEmbedding, QuantisedLinear}
    # Norms stay floats; with this width a scale a row is an eighth of the weights.
    assert sum(parameter.nbytes for parameter in loaded.parameters()) < (0.35 if config.bits == 8 else 0.25) * before
    tokens = random_tokens(1, 7)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert weights_fingerprint(loaded) == weights_fingerprint(model)
    half = load_model(tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = half(tokens).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - model(tokens).logits).abs().mean() < 0.1
    state = generate(loaded, tokens, max_new_tokens=2).state
    save_state(state, tmp_path / "state", loaded)
    load_state(tmp_path / "state", load_model(tmp_path))
    with pytest.raises(MismatchError, match="its weights"):
        load_state(tmp_path / "state", fitting(tie_embeddings=tied))


@pytest.mark.usefixtures("without_shape_checks")
def test_what_cannot_be_is_refused(tmp_path: Path):
    model = fitting()
    quantise(model, EIGHT)
    with pytest.raises(ValueError, match="must have weights of floats, but has 8 bits: quantise the model that it was"):
        quantise(model, EIGHT)
    with pytest.raises(ValueError, match="to be trained, but has 8 bits: train the model that it was made of"):
        fit(model, lambda number: pytest.fail("nothing is read"), steps=1)
    with pytest.raises(ValueError, match="bits must be 8 or 4, but is 3"):
        QuantisationConfig(bits=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="group_size must be one of 32, 64, 128, 256, but is 16"):
        QuantisationConfig(bits=4, group_size=16)
    with pytest.raises(ValueError, match="bits must be 4 for group_size to mean anything"):
        QuantisationConfig(bits=8, group_size=64)
    with pytest.raises(TypeError, match=r"QuantisationConfig\(bits=8\)"):
        quantise(fitting(), {"bits": 8})  # pyright: ignore[reportArgumentType]
    save_model(model, tmp_path)
    begun = TrainConfig(store=tmp_path, run=tmp_path / "run", steps=1, init=tmp_path)
    with pytest.raises(MismatchError, match=r"init must be the folder of a model with weights of floats, .* 8 bits"):
        check_first_model(model.config, begun, cast("TokenStore", None))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"bits": 8', '"bits": 2'))
    with pytest.raises(MismatchError, match=r"cannot be read here \(quantisation: bits must be 8 or 4, but is 2"):
        load_model(tmp_path)


def test_shapes_that_do_not_suit_four_bits_have_eight():
    model = fitting(vocab_size=50)
    wide = quantise(model, FOUR)
    assert wide == ["decoder.embedding.tokens", "decoder.head"]
    assert generate(model, random_tokens(1, 3), max_new_tokens=2).tokens[0].numel() == 2
