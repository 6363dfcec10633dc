"""GPT-2, Llama, Mistral, Qwen2, Qwen3 and Gemma of Hugging Face compute here what they compute there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from retentive import RecurrentMemoryConfig, RecurrentMemoryTransformer, load_model
from retentive.checkpoints.conversion import convert, read_foreign, to_foreign
from retentive.checkpoints.weights import save_model
from retentive.cli.main import main
from retentive.errors import MismatchError
from retentive.models.retro import RetroConfig
from retentive.models.retro.retrofit import retrofit
from retentive.text.loading import load_tokenizer
from retentive.text.subword_tokenizer import train_bpe

transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(23, (2, 17), generator=torch.Generator().manual_seed(0))
LLAMA = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
}
GPT2 = {"vocab_size": 23, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.2}
SCALED = {
    "rope_type": "llama3",
    "rope_theta": 50.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("GPT2", {**GPT2}),
    ("GPT2", {**GPT2, "n_inner": 24, "activation_function": "gelu", "tie_word_embeddings": False}),
    ("Llama", {**LLAMA}),
    ("Llama", {**LLAMA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 6}),
    ("Llama", {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
    ("Llama", {**LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 3.0}}),
    ("Llama", {**LLAMA, "head_dim": 8, "rope_parameters": {**SCALED}}),
    ("Mistral", {**LLAMA, "sliding_window": 5}),
    ("Qwen2", {**LLAMA, "use_sliding_window": False}),
    ("Qwen2", {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}),
    ("Qwen3", {**LLAMA, "head_dim": 8}),
    ("Qwen3", {**LLAMA, "head_dim": 6, "attention_bias": True, "tie_word_embeddings": True}),
    ("Gemma", {**LLAMA, "head_dim": 8}),
]


def made(family: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    model = getattr(transformers, name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms begin at 0 and 1
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def saved(folder: Path, family: str = "Llama", **changes: Any) -> Path:
    made(family, {**(GPT2 if family == "GPT2" else LLAMA), **changes}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("family", "settings"), MODELS, ids=lambda value: value if isinstance(value, str) else None)
def test_logits_are_those_of_hugging_face(family: str, settings: dict[str, Any], tmp_path: Path):
    theirs = made(family, settings)
    theirs.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = theirs(TOKENS).logits
    found = convert(tmp_path / "theirs", tmp_path / "ours")
    ours = load_model(tmp_path / "ours")
    with torch.no_grad():
        first = ours(TOKENS[:, :9])
        second = ours(TOKENS[:, 9:], first.state)
        torch.testing.assert_close(torch.cat((first.logits, second.logits), 1), expected, rtol=0, atol=1e-5)
    back = to_foreign(ours, found.format)
    original = theirs.state_dict()
    assert back.keys() == original.keys()
    # Gemma's norms multiply by a weight and one.
    exact = {"rtol": 0, "atol": 1e-6 if family == "Gemma" else 0}
    for name in back:
        torch.testing.assert_close(back[name], original[name], **exact)


def test_linear_layers_of_gpt2_hold_inputs_in_rows(tmp_path: Path):
    found = read_foreign(saved(tmp_path, "GPT2"))
    theirs = load_file(tmp_path / "model.safetensors")
    square = "transformer.h.0.attn.c_proj.weight"  # whose shape would not tell
    ours = found.tensors["decoder.blocks.0.mixer.output_proj.weight"]
    assert torch.equal(ours, theirs[square].T)
    assert not torch.equal(ours, theirs[square])


def test_shards_and_pickles_are_read(tmp_path: Path):
    expected = read_foreign(saved(tmp_path / "whole")).tensors
    made("Llama", LLAMA).save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    settings = (tmp_path / "whole" / "config.json").read_text()
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    halves = [dict(list(weights.items())[:7]), dict(list(weights.items())[7:])]
    index = {name: f"pytorch_model-{half}.bin" for half in (0, 1) for name in halves[half]}
    for half in (0, 1):
        torch.save(halves[half], pickled / f"pytorch_model-{half}.bin")
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    (pickled / "config.json").write_text(settings)
    single = tmp_path / "single"
    single.mkdir()
    torch.save({"model": weights}, single / "last.pt", _use_new_zipfile_serialization=False)
    (single / "settings.json").write_text(settings)
    for source, given in (
        (tmp_path / "shards", None),
        (pickled, None),
        (single, single / "settings.json"),
        (single / "last.pt", single / "settings.json"),
    ):
        found = read_foreign(source, settings=given).tensors
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_masks_and_tables_of_old_checkpoints_are_left_out(tmp_path: Path):
    folder = saved(tmp_path, "GPT2")
    weights = load((folder / "model.safetensors").read_bytes())  # not mapped, as the file is written over
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    bare["lm_head.weight"] = bare["wte.weight"].clone()
    save_file(bare, folder / "model.safetensors")
    assert read_foreign(folder).config.tie_embeddings
    bare["lm_head.weight"][3, 3] += 1
    save_file(bare, folder / "model.safetensors")
    with pytest.raises(MismatchError, match=r"embeddings are tied, but lm_head.weight differs from wte.weight"):
        read_foreign(folder)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_what_was_converted_is_a_base_for_neighbours_and_for_memory(family: str, tmp_path: Path):
    convert(saved(tmp_path / "theirs", family), tmp_path / "ours")
    backbone = load_model(tmp_path / "ours")
    sizes = {"encoder_hidden_size": 8, "encoder_num_layers": 1, "encoder_num_heads": 2}
    retro = retrofit(backbone, RetroConfig(backbone=backbone.config, chunk_size=4, cross_layers=(2,), **sizes)).eval()
    config = RecurrentMemoryConfig(backbone=backbone.config, segment_length=17, num_memory_tokens=0)
    memory = RecurrentMemoryTransformer(config).eval()
    memory.decoder.load_state_dict(backbone.decoder.state_dict())
    with torch.no_grad():
        expected = backbone(TOKENS).logits
        assert torch.equal(retro(TOKENS).logits, expected)
        torch.testing.assert_close(memory(TOKENS).logits, expected, rtol=0, atol=1e-5)
        neighbours = torch.randint(23, (2, 4, 1, 8))
        assert torch.equal(retro(TOKENS, neighbours=neighbours).logits, expected)  # readers add nothing at first
        for name, weight in retro.named_parameters():
            if "output_proj" in name and "cross" in name:
                weight.normal_()
        changed = retro(TOKENS, neighbours=neighbours).logits
    assert torch.equal(changed[:, :3], expected[:, :3])
    assert not torch.allclose(changed[:, 4:], expected[:, 4:])


def test_the_tokenizer_beside_the_weights_comes_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = saved(tmp_path / "theirs", "GPT2", vocab_size=257)
    tokenizer = train_bpe(["some text"], vocab_size=257)
    tokenizer.save(tmp_path / "apart")
    (tmp_path / "apart" / "tokenizer.json").rename(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    main(["convert", str(folder), str(tmp_path / "ours")])
    assert "without a tokenizer" not in capsys.readouterr().out
    assert load_tokenizer(tmp_path / "ours").encode("some text") == tokenizer.encode("some text")
    main(["generate", str(tmp_path / "ours"), "--prompt", "some", "--max-new-tokens", "3", "--temperature", "0"])


def test_a_window_from_some_layer_on_was_not_always_listed(tmp_path: Path):
    path = saved(tmp_path, "Qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=0) / "config.json"
    settings = json.loads(path.read_text())
    del settings["layer_types"]
    for first, window in ((0, 5), (2, None), (28, None)):
        path.write_text(json.dumps({**settings, "max_window_layers": first}))
        assert read_foreign(tmp_path).config.window == window
    path.write_text(json.dumps({**settings, "max_window_layers": 1}))
    with pytest.raises(MismatchError, match="layer_types must be all alike"):
        read_foreign(tmp_path)


def test_dropout_is_carried_over_or_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shares = {"resid_pdrop": 0.2, "attn_pdrop": 0.3}
    found = read_foreign(saved(tmp_path / "alike", "GPT2", **shares, embd_pdrop=0.2))
    assert (found.config.dropout, found.config.attention_dropout, found.left_behind) == (0.2, 0.3, {})
    folder = saved(tmp_path / "other", "GPT2", **shares, embd_pdrop=0.0)
    main(["convert", str(folder), str(tmp_path / "ours")])
    assert "settings that were not converted (they matter in further training only): embd" in capsys.readouterr().out
    assert load_model(tmp_path / "ours").config.dropout == 0.2


ROPE: list[dict[str, Any]] = [
    {"rope_theta": 50.0},
    {"rope_theta": 50.0, "rope_parameters": None},
    {"rope_theta": 50.0, "rope_parameters": {"rope_type": "default"}},
    {"rope_theta": 50.0, "rope_parameters": {"rope_type": "default", "rope_theta": 70.0}},
    {"rope_theta": 50.0, "rope_scaling": None},
    {"rope_theta": 50.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
    {"rope_theta": 50.0, "rope_scaling": {"type": "linear", "factor": 3.0}, "rope_parameters": None},
    {"rope_scaling": {"rope_type": "linear", "factor": 3.0, "rope_theta": 70.0}, "rope_parameters": {}},
    {"rope_theta": 50.0, "rope_scaling": {**SCALED}},
    {"rope_theta": 50.0, "rope_parameters": {"type": "linear", "factor": 3.0}},
    {},
]


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2"])
def test_settings_of_the_rotation_count_where_the_library_reads_them(family: str, tmp_path: Path):
    path = saved(tmp_path, family, head_dim=8) / "config.json"
    bare = json.loads(path.read_text())
    del bare["rope_parameters"]
    for rope in ROPE:
        path.write_text(json.dumps({**bare, **rope}))
        theirs = getattr(transformers, f"{family}ForCausalLM").from_pretrained(tmp_path)
        found = read_foreign(tmp_path)
        with torch.no_grad():
            expected = theirs(TOKENS).logits
            torch.testing.assert_close(found.model()(TOKENS).logits, expected, rtol=0, atol=1e-4, msg=str(rope))


def test_a_setting_with_two_names_is_read_by_either(tmp_path: Path):
    path = saved(tmp_path, "GPT2") / "config.json"
    settings = json.loads(path.read_text())
    named = {"num_attention_heads": settings.pop("n_head"), "num_hidden_layers": settings.pop("n_layer")}
    path.write_text(json.dumps({**settings, **named}))
    assert read_foreign(tmp_path).config.num_heads == 2
    path.write_text(json.dumps({**settings, **named, "n_head": 4}))
    with pytest.raises(MismatchError, match="says n_head=4 and num_attention_heads=2, two names of one setting"):
        read_foreign(tmp_path)


def test_a_window_that_llama_ignores_is_ignored(tmp_path: Path):
    path = saved(tmp_path, "Llama") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sliding_window": 3}))
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(read_foreign(tmp_path).model()(TOKENS).logits, theirs(TOKENS).logits, rtol=0, atol=1e-5)


def test_the_card_of_a_converted_model_names_its_licence(tmp_path: Path):
    folder = saved(tmp_path / "theirs")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_name_or_path": "someone/small"}))
    (folder / "README.md").write_text(
        "---\nlicense: other\nlicense_name: kind\nlicense_link: LICENSE\n---\n# A model\n"
    )
    (folder / "LICENSE").write_text("be kind")
    convert(folder, tmp_path / "ours")
    card = (tmp_path / "ours" / "README.md").read_text()
    for words in (
        "license: other\nlicense_name: kind\nlicense_link: LICENSE\nbase_model: someone/small\n",
        "Converted from someone/small (Llama, Mistral, Qwen2 or Qwen3 of Hugging Face) by [retentive]",
        "That of its origin: kind, LICENSE in `LICENSE`.",
    ):
        assert words in card
    assert (tmp_path / "ours" / "LICENSE").read_text() == "be kind"
    save_model(load_model(tmp_path / "ours"), tmp_path / "again")
    assert "Converted from" not in (tmp_path / "again" / "README.md").read_text()


REFUSED = [
    ("Llama", {"model_type": "gemma3"}, "model_type must be 'llama', 'mistral', 'qwen2', .*, but is 'gemma3'"),
    ("Gemma", {"hidden_act": "silu"}, "hidden_act must be 'gelu_pytorch_tanh' in a Gemma, but is 'silu'"),
    ("Gemma", {"hidden_activation": "gelu"}, "hidden_activation must be 'gelu_pytorch_tanh' in a Gemma"),
    ("Llama", {"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
    ("Llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type must be one of default, linear, .* is 'yarn'"),
    ("Llama", {"rope_parameters": {"rope_type": "llama3", "factor": 2}}, "of type 'llama3' must have low_freq_factor,"),
    ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": None}}, "factor must be a number, but is None"),
    ("Mistral", {"layer_types": ["full_attention"] * 2}, "must say the same, but say full_attention and 4096"),
    ("Qwen2", {"layer_types": ["sliding_attention"] * 2}, "must say the same, but say sliding_attention and None"),
    ("Llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling of type 'linear' must have factor"),
    ("Llama", {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4}, "must be all alike"),
    ("Llama", {"rope_parameters": {"rope_theta": None}}, "rope_theta must be a number, but is None"),
    ("Llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 5.0}}, "not both"),
    ("Llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1.0"),
    ("Llama", {"rope_parameters": {"full_attention": {"rope_theta": 5.0}}}, "must be one for all layers"),
    ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx must be False"),
    ("GPT2", {"activation_function": "tanh"}, "activation_function must be one of gelu_new"),
]


@pytest.mark.parametrize(("family", "changes", "message"), REFUSED, ids=[str(row[1]) for row in REFUSED])
def test_settings_without_a_meaning_here_are_refused(family: str, changes: dict, message: str, tmp_path: Path):
    path = saved(tmp_path, family) / "config.json"
    settings = json.loads(path.read_text())
    if "rope_scaling" in changes and "rope_parameters" not in changes:
        del settings["rope_parameters"]
    if "layer_types" in changes:
        settings["model_type"] = "mistral"
    path.write_text(json.dumps({**settings, **changes}))
    with pytest.raises(MismatchError, match=message):
        read_foreign(tmp_path)


def test_a_model_of_another_kind_is_named_by_what_its_settings_say(tmp_path: Path):
    """RecurrentGemma shares names of tensors with Llama and mixes in another way."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "lru_width": 16, "vocab_size": 23}
    config = transformers.RecurrentGemmaConfig(num_attention_heads=2, num_key_value_heads=1, **sizes)
    transformers.RecurrentGemmaForCausalLM(config).save_pretrained(tmp_path / "theirs")
    with pytest.raises(
        MismatchError, match=r"known here \(its settings say model_type='recurrent_gemma'\), but lacks model\.layers"
    ):
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
