"""Texts grow when the last length is learned, and short ones are never forgotten."""

import pytest
import torch

from laws.families import small_config, small_model
from retentive.data.tasks.recurrent_tasks import copy_segments
from retentive.data.tasks.synthetic import cipher
from retentive.models.registry import build
from retentive.training.run.curriculum import CurriculumConfig, SegmentCurriculum, cut_segments, fit_curriculum
from retentive.training.step.config import OptimizerConfig


def test_the_next_stage_starts_when_the_last_is_learned():
    curriculum = SegmentCurriculum(CurriculumConfig(stages=(1, 2, 4), learned_below=0.5, patience=3))
    for longest in (1, 2, 4):
        assert curriculum.longest == longest
        assert not curriculum.record(longest, 0.1)
        assert not curriculum.record(longest, 2.0)  # one bad batch among three
        assert not curriculum.record(longest, 0.1)
        assert not curriculum.record(longest - 1, 0.0)  # other lengths do not count
        assert not curriculum.is_finished
        assert not curriculum.record(longest, 0.1)
        assert curriculum.record(longest, 0.1)
    assert curriculum.is_finished
    assert curriculum.longest == 4
    assert not curriculum.record(4, 0.0)


def test_lengths_are_drawn_anew_and_short_ones_stay():
    curriculum = SegmentCurriculum(CurriculumConfig(stages=(8,), newest_share=0.5, seed=3))
    drawn = [curriculum.segments(step) for step in range(2000)]
    assert drawn == [SegmentCurriculum(curriculum.config).segments(step) for step in range(2000)]
    shares = [drawn.count(segments) / 2000 for segments in range(1, 9)]
    assert all(0.04 < share < 0.09 for share in shares[:-1])
    assert 0.5 < shares[-1] < 0.62


def test_all_at_once_is_a_choice():
    curriculum = SegmentCurriculum(CurriculumConfig(stages=(3,), newest_share=1.0))
    assert {curriculum.segments(step) for step in range(50)} == {3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ()}, r"stages must be numbers of segments from 1 on that grow, but are \(\)"),
        ({"stages": (2, 2)}, r"from 1 on that grow, but are \(2, 2\)"),
        ({"stages": (0, 1)}, r"from 1 on that grow, but are \(0, 1\)"),
        ({"stages": (1,), "learned_below": 0.0}, "learned_below must be above 0 nats, but is 0.0"),
        ({"stages": (1,), "patience": 0}, "patience must be at least 1 batch, but is 0"),
        ({"stages": (1,), "newest_share": 0.0}, "newest_share must be above 0 and at most 1, but is 0.0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        CurriculumConfig(**changes)


def small_task(step: int, segments: int):
    return copy_segments(step, batch_size=8, segment_length=2, segments=2 * segments, num_symbols=3, seed=0)


@pytest.mark.parametrize("family", ["rmt", "retnet", "transformer"])
def test_every_family_whose_state_is_carried_can_follow(family: str):
    model = build(small_config(family))
    config = CurriculumConfig(stages=(1, 2), learned_below=1.2, patience=2)
    seen = []
    report = fit_curriculum(
        model,
        small_task,
        config,
        segment_length=2 if family != "rmt" else 4,
        max_steps=120,
        extra_steps=3,
        optimizer=OptimizerConfig(learning_rate=5e-3),
        on_step=lambda step, segments, loss: seen.append((step, segments, loss)),
    )
    assert report.is_finished
    assert [stage.segments for stage in report.stages] == [1, 2]
    assert report.steps == len(report.losses) == len(seen) == report.stages[-1].step + 3
    assert {segments for _, segments, _ in seen} == {1, 2}


def test_a_curriculum_reads_segments_with_gradients_through_all_of_them():
    """One step is the step on the whole text in one call, in every way back."""
    batch = small_task(0, 3)
    expected = small_model("rmt").train()
    expected(batch.tokens, labels=batch.labels).loss.backward()
    for way in ("plain", "replay"):
        model = small_model("rmt")
        fit_curriculum(
            model,
            lambda step, segments: small_task(step, 3),
            CurriculumConfig(stages=(1,)),
            segment_length=5,
            max_steps=1,
            optimizer=OptimizerConfig(learning_rate=1e-30, clip_norm=None),
            backpropagation=way,
        )
        for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-11)


def test_time_and_steps_end_a_curriculum():
    config = CurriculumConfig(stages=(1,), learned_below=1e-9)
    report = fit_curriculum(build(small_config("rmt")), small_task, config, segment_length=5, max_steps=4)
    assert (report.steps, report.is_finished, report.stages) == (4, False, ())
    report = fit_curriculum(
        build(small_config("rmt")), small_task, config, segment_length=5, max_steps=9, max_seconds=0.0
    )
    assert report.steps == 1
    with pytest.raises(ValueError, match="max_steps must be at least 1, but is 0"):
        fit_curriculum(build(small_config("rmt")), small_task, config, segment_length=5, max_steps=0)


def test_segments_cover_the_batch():
    batch = small_task(0, 3)
    pieces = cut_segments(batch, 5)
    assert [piece.tokens.shape[1] for piece in pieces] == [5, 5, 2]
    assert torch.equal(torch.cat([piece.labels for piece in pieces], 1), batch.labels)


def test_inputs_besides_tokens_cannot_be_cut():
    batch = cipher(0, batch_size=2, chunk_size=4, num_symbols=4, seed=0)
    with pytest.raises(ValueError, match="a batch of a curriculum must hold tokens alone, but has neighbours too"):
        cut_segments(batch, 4)
