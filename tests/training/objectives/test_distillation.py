"""Distillation: the student's distribution goes to the teacher's, and both carry their own states."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from laws.families import VOCAB, small_config, small_model
from retentive.checkpoints.weights import save_model
from retentive.data.batch import Batch
from retentive.data.tasks.synthetic import repeat_copy
from retentive.errors import MismatchError
from retentive.models.base import DecoderModel
from retentive.state import named_tensors
from retentive.text.byte_tokenizer import ByteTokenizer
from retentive.training.objectives.distillation import Distillation, DistillationConfig, divergence
from retentive.training.objectives.protocol import Vocabulary
from retentive.training.run.fit import fit
from retentive.training.step.config import OptimizerConfig
from retentive.training.window import Window, place

CPU = torch.device("cpu")
FOLDER = Path("teacher")


def window_of(seed: int, rows: int = 3, time: int = 8) -> Window:
    tokens = torch.randint(0, VOCAB, (rows, time + 1), generator=torch.Generator().manual_seed(seed))
    labels = tokens[:, 1:].clone()
    labels[0, :3] = -100
    batch = Batch(tokens=tokens[:, :-1], labels=labels, starts=torch.zeros(rows, time, dtype=torch.bool))
    return place(batch, CPU, carries_state=True)


def taught_by(model: DecoderModel, **options: Any) -> Distillation:
    return Distillation(model, DistillationConfig(teacher=FOLDER, **options))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergence_is_that_of_its_formula(temperature: float):
    student, teacher = (3 * torch.randn(2, 4, VOCAB, dtype=torch.float64) for _ in range(2))
    wanted, found = ((logits / temperature).softmax(-1) for logits in (teacher, student))
    expected = temperature**2 * (wanted * (wanted / found).log()).sum(-1)
    torch.testing.assert_close(divergence(student, teacher, temperature), expected, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda logits: divergence(logits, teacher[:1, :1], temperature), student[:1, :1].clone().requires_grad_()
    )


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    model = small_model("retnet")
    total, count, _ = taught_by(small_model("retnet"), temperature=2.0)(model, window_of(0), None)
    assert count == 3 * 8 - 3
    assert abs(float(total.detach())) < 1e-10


def test_only_labels_count_and_the_texts_share_is_its_cross_entropy():
    student, teacher, window = small_model("retnet"), small_model("transformer"), window_of(0)
    soft, _, _ = taught_by(teacher)(student, window, None)
    output = student(window.tokens, labels=window.labels)
    each = divergence(output.logits, teacher(window.tokens).logits, 1.0)
    torch.testing.assert_close(soft, each[window.labels != -100].sum(), rtol=1e-12, atol=0)
    mixed, _, _ = taught_by(teacher, text_share=0.25)(student, window, None)
    torch.testing.assert_close(mixed, 0.75 * soft + 0.25 * output.loss * window.num_labels, rtol=1e-12, atol=0)


def test_both_carry_their_states():
    student, teacher = small_model("retnet"), small_model("rmt")
    objective = taught_by(teacher)
    first, second = window_of(0), window_of(1)
    _, _, state = objective(student, first, None)
    following = teacher(second.tokens, teacher(first.tokens).state).logits
    expected = divergence(student(second.tokens, student(first.tokens).state).logits, following, 1.0)
    total, _, after = objective(student, second, state)
    torch.testing.assert_close(total, expected.where(second.labels != -100, 0).sum(), rtol=1e-10, atol=0)
    advanced = named_tensors(objective.advance(student, second, state))
    for name, tensor in named_tensors(after).items():
        torch.testing.assert_close(advanced[name], tensor, rtol=0, atol=1e-12, msg=name)
    assert named_tensors(objective.initial_state(student, 3)).keys() == advanced.keys()


def test_a_student_learns_from_a_saved_teacher(tmp_path: Path):
    def task(step: int) -> Batch:
        return repeat_copy(step % 4, batch_size=8, length=4, num_symbols=6, seed=0)

    save_model(small_model("transformer", dtype=torch.float32), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    student = small_model("retnet", dtype=torch.float32)
    objective = DistillationConfig(teacher=tmp_path, temperature=2.0)
    options: dict[str, Any] = {"steps": 80, "optimizer": OptimizerConfig(learning_rate=1e-2)}
    results = fit(student, task, objective=objective, **options)
    assert results[-1].loss < 0.3 * results[0].loss
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_teacher_without_a_tokenizer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_model(small_model("transformer", vocab_size=257), tmp_path)
    objective, said = DistillationConfig(teacher=tmp_path), f"the teacher in {tmp_path} was saved without a tokenizer"
    objective.build(Vocabulary(size=257), torch.device("cpu"))
    assert said not in capsys.readouterr().err, "nor is that of the text known"
    objective.build(Vocabulary(size=257, fingerprint=ByteTokenizer().fingerprint()), torch.device("cpu"))
    assert said in capsys.readouterr().err


def test_what_cannot_be_is_refused(tmp_path: Path):
    student = small_model("retnet")
    encoder = small_model("rmt", bidirectional=True)
    with pytest.raises(ValueError, match=r"distillation\.teacher must read from left to right"):
        taught_by(encoder).check(student, carries_state=False)
    with pytest.raises(ValueError, match="model must read from left to right for objective 'distillation'"):
        taught_by(student).check(encoder, carries_state=False)
    attention = taught_by(small_model("transformer"))
    attention.check(student, carries_state=False)
    with pytest.raises(ValueError, match=r"teacher must have a bounded state for data\.mode='streamed'"):
        attention.check(student, carries_state=True)
    reading = taught_by(small_model("retro"))
    with pytest.raises(ValueError, match=r"teacher reads neighbours of chunks .* so the model must read the same"):
        reading.check(student, carries_state=False)
    reading.check(small_model("retro"), carries_state=False)
    save_model(small_model("retnet"), tmp_path)
    with pytest.raises(MismatchError, match=rf"{VOCAB + 1} ids, but the model in .* has another, of {VOCAB} ids"):
        DistillationConfig(teacher=tmp_path).build(Vocabulary(size=VOCAB + 1), CPU)
    with pytest.raises(FileNotFoundError, match="must be the folder of a saved model"):
        DistillationConfig(teacher=tmp_path / "none").build(Vocabulary(size=VOCAB), CPU)
    for options, message in (
        ({"temperature": 0.0}, r"distillation\.temperature must be above 0, but is 0\.0"),
        ({"text_share": 1.0}, r"distillation\.text_share must be at least 0 and below 1, but is 1\.0"),
    ):
        with pytest.raises(ValueError, match=message):
            DistillationConfig(teacher=FOLDER, **options)


def test_a_teacher_that_reads_neighbours_is_given_them():
    config: Any = small_config("retro")
    student, teacher = small_model("retro"), small_model("retro", seed=1)
    window = window_of(0)
    chunks = window.tokens.shape[1] // config.chunk_size
    neighbours = torch.randint(0, VOCAB, (3, chunks, 1, 2 * config.chunk_size))
    given = replace(window, extra_inputs={"neighbours": neighbours})
    total, _, _ = taught_by(teacher)(student, given, None)
    logits = [model(window.tokens, neighbours=neighbours).logits for model in (student, teacher)]
    expected = divergence(*logits, 1.0).where(window.labels != -100, 0).sum()
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    plain, _, _ = taught_by(small_model("transformer"))(student, given, None)
    assert plain.isfinite()
