"""What was learned around a model of Hugging Face is saved, and goes around that model alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from huggingface.recurrent_memory.small import around, backbone, copied, tokens, with_lora
from retentive.errors import MismatchError
from retentive.huggingface import load_memory, save_memory
from retentive.training.run.fit import fit
from retentive.training.step.config import OptimizerConfig

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")


def with_other_name(model: Any) -> Any:
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(model, config, adapter_name="mine")


def test_an_adapter_of_any_name_is_saved(tmp_path: Path):
    model = around(with_other_name(backbone()))
    save_memory(model, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load_memory(backbone(), tmp_path)(tokens(2, 7)).logits, model(tokens(2, 7)).logits)
    model.backbone.add_adapter("other", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.backbone.base_model.set_adapter(["mine", "other"])
    with pytest.raises(ValueError, match="one adapter of the backbone must be active"):
        save_memory(model, tmp_path)
    model.backbone.base_model.set_adapter("mine")
    model.backbone.requires_grad_(False)
    with model.backbone.disable_adapter(), pytest.raises(ValueError, match="backbone must be enabled"):
        save_memory(model, tmp_path)


def test_a_memory_goes_around_the_weights_that_it_was_trained_around_alone(tmp_path: Path):
    save_memory(around(backbone().requires_grad_(False)), tmp_path / "bare")
    save_memory(around(with_lora(backbone())), tmp_path / "lora")
    other = backbone()
    with torch.no_grad():
        other.get_output_embeddings().weight.add_(0.1)
    for kind in ("bare", "lora"):
        load_memory(backbone(), tmp_path / kind)
        with pytest.raises(MismatchError, match="must be the model that the memory was trained around"):
            load_memory(other, tmp_path / kind)
    settings = json.loads((tmp_path / "bare" / "memory.json").read_text())
    del settings["backbone"]["weights"], settings["sha256"]  # as earlier versions wrote it
    settings["format_version"] = 1
    settings["memory"] = {name: settings["memory"][name] for name in ("segment_length", "num_memory_tokens")}
    (tmp_path / "bare" / "memory.json").write_text(json.dumps(settings))
    load_memory(other, tmp_path / "bare")
    (tmp_path / "bare" / "memory.json").write_text(json.dumps({**settings, "format_version": 3}))
    with pytest.raises(MismatchError, match=r"has the format .*, 3\), but .* of versions \(1, 2\)"):
        load_memory(other, tmp_path / "bare")


def test_equal_weights_under_another_config_are_another_model(tmp_path: Path):
    made = backbone()
    made.config.of_each_layer = ["far"]
    save_memory(around(made.requires_grad_(False)), tmp_path)
    settings = made.config.to_dict()
    for changed, said in (
        ({"of_each_layer": ["far", "near"]}, r"of_each_layer was \['far'\] and is \['far', 'near'\]"),
        ({"rms_norm_eps": 0.1}, "rms_norm_eps was 1e-06 and is 0.1"),
        (
            {"rope_parameters": {**settings["rope_parameters"], "rope_theta": 50.0}},
            "rope_theta was 10000.0 and is 50.0",
        ),
    ):
        other = type(made)(type(made.config).from_dict({**settings, **changed}))
        other.load_state_dict(made.state_dict())
        with pytest.raises(MismatchError, match=f"its config says something else .*{said}"):
            load_memory(other, tmp_path)
    # What is another release's, or says how a model is called and not what it computes, is no difference.
    same = type(made)(type(made.config).from_dict({**settings, "use_cache": False, "of_a_later_release": 3}))
    same.load_state_dict(made.state_dict())
    load_memory(same, tmp_path)


@pytest.mark.parametrize("lora", [False, True])
def test_what_is_frozen_stays_and_what_is_learned_is_saved(lora: bool, tmp_path: Path):
    bare = backbone()
    original = {name: weight.clone() for name, weight in bare.state_dict().items()}
    inner = with_lora(bare) if lora else bare.requires_grad_(False)
    model = around(inner)
    steps = fit(model, lambda number: copied(0), steps=30, optimizer=OptimizerConfig(learning_rate=0.03))
    assert steps[-1].loss < 0.9 * steps[0].loss
    trained = {name.replace("base_layer.", ""): weight for name, weight in bare.state_dict().items()}
    assert all(torch.equal(trained[name], weight) for name, weight in original.items())
    model.eval()
    save_memory(model, tmp_path / "memory")
    size = sum(path.stat().st_size for path in (tmp_path / "memory").glob("*.safetensors"))
    assert size < 0.5 * sum(weight.numel() * 4 for weight in original.values())
    again = load_memory(backbone(), tmp_path / "memory")
    x = tokens(2, 17)
    with torch.no_grad():
        torch.testing.assert_close(again(x).logits, model(x).logits, rtol=0, atol=1e-6)
        assert not torch.allclose(again(x).logits, around(backbone())(x).logits)
