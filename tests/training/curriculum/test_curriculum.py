"""Texts grow when the last length is learned, and short ones are never forgotten."""

from pathlib import Path
from typing import Any

import pytest
import torch

from laws.families import small_config, small_model
from retentive.data.tasks.recurrent_tasks import copy_segments
from retentive.data.tasks.synthetic import cipher
from retentive.errors import MismatchError
from retentive.models.registry import build
from retentive.training.curriculum.fit import (
    HELD_OUT,
    CurriculumConfig,
    SegmentCurriculum,
    cut_segments,
    fit_curriculum,
)
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


def test_a_stage_must_be_learned_on_longer_texts_that_are_not_trained_on_too():
    config = CurriculumConfig(stages=(1, 3), learned_below=0.5, patience=2, held_out_batches=1, held_out_length=1.5)
    curriculum, asked, held_out = SegmentCurriculum(config), [], iter((0.6, 0.4, 0.4))

    def loss(segments: int) -> float:
        asked.append(segments)
        return next(held_out)

    assert [curriculum.record(1, 0.1, loss) for _ in range(4)] == [False, False, False, True]
    assert asked == [2, 2]
    assert [curriculum.record(3, 0.1, loss) for _ in range(2)] == [False, True]
    assert asked == [2, 2, 5]
    numbers = []

    def task(step: int, segments: int):
        numbers.append((step, segments))
        return small_task(step % HELD_OUT, segments)

    model = build(small_config("rmt"))
    config = CurriculumConfig(stages=(1,), learned_below=9.0, patience=1, newest_share=1.0, held_out_batches=2)
    report = fit_curriculum(model, task, config, segment_length=4, max_steps=3)
    assert report.is_finished
    assert numbers == [(0, 1), (HELD_OUT, 2), (HELD_OUT + 1, 2)]


@pytest.mark.parametrize("way", ["plain", "replay"])
def test_a_stopped_curriculum_goes_on_as_if_it_had_not_stopped(way: str, tmp_path: Path):
    config = CurriculumConfig(stages=(1, 2), learned_below=1.3, patience=2)
    options: dict[str, Any] = {
        "max_steps": 40,
        "extra_steps": 2,
        "optimizer": OptimizerConfig(learning_rate=5e-3),
    }

    def fitted(folder: Path, stop_after: int | None = None):
        torch.manual_seed(0)
        model = build(small_config("rmt"))

        def stop(step: int, segments: int, loss: float) -> None:
            if step == stop_after:
                raise KeyboardInterrupt

        return model, fit_curriculum(
            model,
            small_task,
            config,
            segment_length=4,
            **options,
            backpropagation=way,
            folder=folder,
            checkpoint_every=3,
            on_step=stop,
        )

    model, whole = fitted(tmp_path / "whole")
    assert whole.is_finished
    for stop_after in (4, whole.stages[0].step + 2, whole.steps - 2):
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "cut", stop_after)
    again, resumed = fitted(tmp_path / "cut")
    assert resumed.losses == whole.losses
    assert [(stage.segments, stage.step) for stage in resumed.stages] == [
        (stage.segments, stage.step) for stage in whole.stages
    ]
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert fitted(tmp_path / "cut", 0)[1].losses == whole.losses  # it is over: no step is taken
    with pytest.raises(MismatchError, match=r"no curriculum of other options, but in .* segment_length is 4, not 5"):
        fit_curriculum(again, small_task, config, segment_length=5, **options, folder=tmp_path / "cut")
    with pytest.raises(MismatchError, match=r"in .* task is {}, not {'name': 'another'}; choose another folder"):
        fit_curriculum(
            again,
            small_task,
            config,
            segment_length=4,
            **options,
            described={"name": "another"},
            folder=tmp_path / "cut",
        )
    other = build(small_config("rmt", memory_noise=0.1))
    with pytest.raises(MismatchError, match=r"no curriculum of other options, but in .* model is "):
        fit_curriculum(other, small_task, config, segment_length=4, **options, folder=tmp_path / "cut")


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
        ({"stages": (1,), "held_out_batches": -1}, "held_out_batches must be at least 0, but are -1"),
        ({"stages": (1,), "held_out_length": 0.5}, "held_out_length must be at least 1 time the longest text, but"),
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
