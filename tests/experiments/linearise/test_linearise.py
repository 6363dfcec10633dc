"""Attention that becomes retention: the start, matching, distilling, and going on after a stop."""

from pathlib import Path

import pytest
import torch

from laws.families import VOCAB, random_tokens, small_model
from retentive.checkpoints import load_model, save_model
from retentive.cli.main import main
from retentive.data.prepare import PrepareConfig, prepare
from retentive.errors import MismatchError
from retentive.experiments.linearise.run import LineariseConfig, linearise
from retentive.experiments.linearise.start import hybrid_config, linear_start
from retentive.models.base import DecoderModel
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.training.objectives.matching import Matching
from retentive.training.window import Window

PUBLISHED = {"num_kv_heads": 2, "gated": True, "activation": "swish", "rotary_pairs": "half", "tie_embeddings": True}
BIASED = {"attention_bias": True, "feed_forward_bias": True, "head_bias": True, "final_norm": False, "head_dim": 6}


def teacher_of(**changes) -> DecoderModel:
    return small_model("transformer", **changes)


@pytest.mark.parametrize("options", [PUBLISHED, BIASED, {"window": 5}], ids=["published", "biased", "window"])
def test_a_hybrid_that_keeps_attention_computes_what_the_transformer_does(options: dict):
    teacher, tokens = teacher_of(**options), random_tokens(2, 9)
    pattern = ("window_attention",) if "window" in options else ("attention",)
    student, retains = linear_start(teacher, hybrid_config(teacher.config, pattern))
    assert retains == ()
    with torch.no_grad():
        torch.testing.assert_close(student.double()(tokens).logits, teacher(tokens).logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["retention", "gated_retention"])
def test_layers_that_retain_begin_with_the_projections_of_attention(name: str):
    teacher, tokens = teacher_of(**PUBLISHED), random_tokens(4, 30)
    student, retains = linear_start(teacher, hybrid_config(teacher.config, (name, "attention")), tokens)
    assert retains == (0,)
    theirs, ours = (model.decoder.blocks[0].mixer for model in (teacher, student))
    query, key, value = theirs.input_proj.weight.detach().float().split((16, 8, 8))
    parts = ours.input_projections()[0].parts()
    pairs = torch.tensor([0, 2, 1, 3])  # channels i and i + 2 of four turn together there, 2 i and 2 i + 1 here
    torch.testing.assert_close(parts["query"].detach(), query.view(4, 4, -1)[:, pairs].flatten(0, 1))
    torch.testing.assert_close(parts["key"].detach(), key.view(2, 4, -1)[[0, 0, 1, 1]][:, pairs].flatten(0, 1))
    torch.testing.assert_close(parts["value"].detach(), value.view(2, 4, -1)[[0, 0, 1, 1]].flatten(0, 1))
    assert not parts["gate"].any()
    open_gate = torch.nn.functional.silu(ours.input_proj.bias[-16:])
    torch.testing.assert_close(open_gate, torch.ones(16), rtol=1e-5, atol=1e-5)
    # Each head writes as much as attention's wrote on average: of unit length before, it is scaled by that of theirs.
    scale = (ours.output_proj.weight / theirs.output_proj.weight.float())[0].view(4, 4)
    assert (scale > 0).all()
    torch.testing.assert_close(scale, scale[:, :1].expand(4, 4))
    if name == "gated_retention":
        decays = ours.log_decay(torch.zeros(1, 16)).exp()[0]
        torch.testing.assert_close(decays[0] ** 16.0, torch.tensor(0.5), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(decays[-1] ** 1024.0, torch.tensor(0.5), rtol=1e-3, atol=1e-3)


def test_matching_teaches_new_mixers_alone():
    teacher, tokens = teacher_of(**PUBLISHED), random_tokens(2, 9)
    student, _ = linear_start(teacher, hybrid_config(teacher.config, ("gated_retention", "attention")), tokens)
    matching = Matching(teacher)
    window = Window(tokens=tokens, labels=tokens.roll(-1, 1), starts=None, num_labels=tokens.numel())
    total = matching(student.double(), window, None)[0]
    total.backward()
    learned = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert learned == {name for name, _ in student.named_parameters() if name.startswith("decoder.blocks.0.mixer.")}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    # What the student's own layers make of the text does not matter: each reads what the teacher's reads.
    with torch.no_grad():
        student.decoder.embedding.tokens.weight.mul_(2)
        assert torch.equal(matching(student, window, None)[0], total)


def test_what_cannot_be_is_refused():
    with pytest.raises(MismatchError, match=r"can begin as, but has positions='learned'"):
        hybrid_config(teacher_of(positions="learned", max_positions=64).config, ("retention",))
    with pytest.raises(MismatchError, match=r"but has rotary_scaling=\(4.0,\)"):
        hybrid_config(teacher_of(rotary_scaling=(4.0,)).config, ("retention",))
    with pytest.raises(MismatchError, match=r"window=None, which window_attention needs"):
        hybrid_config(teacher_of().config, ("window_attention",))
    teacher = teacher_of()
    with pytest.raises(ValueError, match="lora_rank must be 0 where distillation_steps are 0, in which it would learn"):
        LineariseConfig(source=Path(), dest=Path(), store=Path(), distillation_steps=0, lora_rank=4)
    with pytest.raises(ValueError, match="must have mixers of another kind in some layer"):
        Matching(teacher).check(teacher, carries_state=False)
    other = small_model("retnet", num_layers=1)
    with pytest.raises(ValueError, match=r"must have the model's layers and channels, \(1, 16\), but has \(2, 16\)"):
        Matching(teacher).check(other, carries_state=False)
    assert teacher.vocab_size == VOCAB


def test_the_command_learns_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text").mkdir()
    for number in range(8):
        (tmp_path / "text" / f"{number}.txt").write_text(f"Document {number} says: naive words, again and again. " * 9)
    prepare(PrepareConfig(source=tmp_path / "text", output=tmp_path / "store", heldout_fraction=0.0))
    teacher = small_model("transformer", dtype=torch.float32, vocab_size=257, **PUBLISHED)
    save_model(teacher, tmp_path / "teacher", ByteTokenizer())
    options = [f"--store={tmp_path / 'store'}", "--pattern=[gated_retention,attention]", "--window=32"]
    options += ["--batch-size=2", "--matching-steps=4", "--distillation-steps=3"]
    command = ["linearise", str(tmp_path / "teacher"), str(tmp_path / "made"), *options]
    main(command)
    said = capsys.readouterr().out
    assert "1 layers retain: 0" in said
    made = load_model(tmp_path / "made" / "distillation" / "model")
    assert made.config.pattern == ("gated_retention", "attention")
    main(command)
    assert "gone on from step 4" in capsys.readouterr().out
    main([*command[:2], str(tmp_path / "low"), *options, "--lora-rank=2"])
    before, after = (
        load_model(tmp_path / "low" / stage / "model").state_dict() for stage in ("matching", "distillation")
    )
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {
        name for name in before if name.endswith(("mixer.input_proj.weight", "mixer.output_proj.weight"))
    }
    folders = {"source": tmp_path / "teacher", "dest": tmp_path / "made", "store": tmp_path / "store"}
    with pytest.raises(MismatchError, match="was begun with another pattern or model: choose another dest"):
        linearise(LineariseConfig(pattern=("retention",), **folders))
