"""Trials of recall: what stands in them, what is asked, and that controls replace nothing but the memory."""

import dataclasses
import json
from collections import Counter
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

from retentive.data.tasks.recurrent_tasks import FACT_BEGIN, QUESTION, VALUES
from retentive.experiments.recall import report
from retentive.experiments.recall import training as recall_training
from retentive.experiments.recall.corpus import read_corpus
from retentive.experiments.recall.questions import DEPTHS, MEMORY, SHUFFLED, ZEROED, Answers, ask, make_trials
from retentive.experiments.recall.training import Phase, recall_config, train_to_recall
from retentive.models.rmt import RecurrentMemoryTransformer
from retentive.training.curriculum.fit import CurriculumConfig

SEGMENT = 16


def small_model(kind: str = "sign") -> RecurrentMemoryTransformer:
    torch.manual_seed(0)
    model = RecurrentMemoryTransformer(dataclasses.replace(recall_config(kind), segment_length=SEGMENT)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def whole_text(trial) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([*trial.pieces(), trial.last_segment()], 1))


def test_a_text_has_one_fact_where_its_depth_says_and_one_question_at_its_end():
    for length in (2 * SEGMENT, 10 * SEGMENT, 2000 * SEGMENT):
        for trial in make_trials(16, length=length, segment_length=SEGMENT, seed=1):
            text = bytes(whole_text(trial)[0].tolist())
            assert len(text) == length
            assert (text.count(FACT_BEGIN), text.count(QUESTION), text[-1]) == (1, 1, QUESTION)
            place = text.index(FACT_BEGIN)
            assert text[place + 1] == VALUES[trial.value]
            segments = length // SEGMENT - 1
            assert place // SEGMENT == (place + 2) // SEGMENT == int(trial.depth * segments)


def test_trials_have_every_depth_and_value_equally_often_and_are_drawn_by_seed():
    trials = make_trials(64, length=160, segment_length=SEGMENT, seed=0)
    pairs = {(trial.depth, trial.value) for trial in trials}
    assert len(pairs) == 64 == len(DEPTHS) * len(VALUES)
    assert trials == make_trials(64, length=160, segment_length=SEGMENT, seed=0)
    other = make_trials(64, length=160, segment_length=SEGMENT, seed=1)
    assert [trial.value for trial in other] != [trial.value for trial in trials]
    assert len({bytes(whole_text(trial)[0].tolist()) for trial in trials}) == 64


@pytest.mark.parametrize("count", [4, 16, 40, 128])
def test_few_trials_ask_for_as_many_values_and_depths_as_they_can(count: int):
    found: set[int] = set()
    for seed in range(8):
        trials = make_trials(count, length=160, segment_length=SEGMENT, seed=seed)
        for asked, kinds in ([trial.value for trial in trials], 16), ([trial.depth for trial in trials], 4):
            often = Counter(asked)
            assert len(often) == min(kinds, count)
            assert max(often.values()) - min(often.values()) <= 1
        found |= {trial.value for trial in trials}
    assert len(found) > 12


@pytest.mark.parametrize("kind", ["sign", "continuous", "associative"])
def test_answers_are_those_of_reading_each_text_in_one_call(kind: str):
    model = small_model(kind)
    trials = make_trials(6, length=10 * SEGMENT, segment_length=SEGMENT, seed=2)
    read: list[int] = []
    answers = ask(model, trials, on_bytes=read.append)
    assert sum(read) == 6 * 10 * SEGMENT
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = [int(model(whole_text(trial)).logits[0, -1].argmax()) for trial in trials]
    assert answers.answers[MEMORY] == tuple(VALUES.find(bytes([answer])) for answer in expected)
    assert answers.values == tuple(trial.value for trial in trials)
    assert answers.resident_bytes is None or answers.resident_bytes > 1e6


def test_controls_replace_the_memory_alone():
    model = small_model().eval()
    trials = make_trials(4, length=4 * SEGMENT, segment_length=SEGMENT, seed=0)
    answers = ask(model, trials).answers
    with torch.no_grad():
        states = [model(whole_text(trial)[:, :-SEGMENT]).state for trial in trials]
        for number, trial in enumerate(trials):
            zeroed = dataclasses.replace(states[number], memory=torch.zeros_like(states[number].memory))
            for what, state in ((ZEROED, zeroed), (SHUFFLED, states[(number + 1) % 4])):
                last = model(torch.from_numpy(trial.last_segment()), state).logits[0, -1].argmax()
                assert answers[what][number] == VALUES.find(bytes([int(last)]))
    alone = ask(model, trials, carries_state=False)
    assert list(alone.answers) == [MEMORY]
    assert alone.resident_bytes is None


def test_hits_are_counted_by_depth():
    answers = Answers(
        length=64,
        depths=(0.0, 0.5, 0.0),
        values=(3, 4, 5),
        answers={MEMORY: (3, -1, 4)},
        seconds=0.0,
        resident_bytes=None,
    )
    assert answers.hits(MEMORY) == (1, 3)
    assert answers.hits(MEMORY, 0.0) == (1, 2)
    assert answers.hits(MEMORY, 0.25) == (0, 0)


@pytest.mark.parametrize(
    ("count", "length", "message"),
    [
        (0, 64, "trials must be at least 1, but is 0"),
        (4, 16, "lengths must be two or more whole segments of 16 bytes, but one is 16; the last segment asks"),
        (4, 40, "lengths must be two or more whole segments of 16 bytes, but one is 40"),
    ],
)
def test_what_cannot_be_asked_is_refused(count: int, length: int, message: str):
    with pytest.raises(ValueError, match=message):
        make_trials(count, length=length, segment_length=SEGMENT, seed=0)


@cache
def small_results(count: int = 8) -> list[report.SeedResult]:
    model, results = small_model(), list[report.SeedResult]()
    for seed in (0, 1):
        rows, seconds, sizes = [], [], []
        for length in (64, 160):
            trials = make_trials(count, length=length, segment_length=SEGMENT, seed=seed)
            found = ask(model, trials)
            rows += [
                *report.rows_of(found),
                *report.rows_of(ask(model, trials, carries_state=False), {MEMORY: report.NO_MEMORY}),
            ]
            seconds.append((length, found.seconds))
            sizes.append((length, found.resident_bytes))
        results.append(
            report.SeedResult(
                seed=seed,
                parameters=7,
                is_learned=False,
                training_seconds=1.5,
                training_processor_seconds=1.0,
                steps=(3, 4),
                rows=tuple(rows),
                seconds=tuple(seconds),
                resident_bytes=tuple(sizes),
            )
        )
    return results


def test_results_survive_json_and_every_number_is_in_the_tables():
    results = small_results()
    for result in results:
        assert report.seed_result_from_dict(json.loads(json.dumps(dataclasses.asdict(result)))) == result
    text = report.markdown(results)
    assert text.count("| recurrent memory |") == 4
    assert text.count("Transformer, same segment, no memory") == 4
    hit = results[1].row(MEMORY, 160)
    low, high = hit.interval
    assert f"{hit.hits}/8 ({low:.2f} to {high:.2f})" in text
    assert "chance is 6.25%" in text
    assert "**no**" in text
    assert "3 + 4" in text


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_tables_leave_out_depths_that_too_few_trials_ask_nothing_at(count: int):
    results = small_results(count)
    # Which depths these are differs from length to length.
    assert any(
        {row.depth for row in result.rows if row.length == 160} != {row.depth for row in result.rows}
        for result in results
    )
    by_depth = report.markdown(results).split("By depth")[1].split("Training and memory")[0]
    assert by_depth.count("/1 (") + by_depth.count("/2 (") == 8 * count


def test_the_picture_has_a_line_for_each_seed_and_control():
    chart = report.recall_chart(small_results())
    names = [curve.name for curve in chart.curves]
    assert names == ["memory, seed 0", "memory, seed 1", "zeroed", "another's", "no memory"]
    for curve in chart.curves:
        assert curve.x == (64.0, 160.0)
        assert all(low <= y <= high for low, y, high in zip(curve.low, curve.y, curve.high, strict=True))


def test_kinds_of_memory_differ_in_the_memory_alone():
    configs = [recall_config(kind) for kind in ("sign", "continuous", "noisy", "associative", "none")]
    assert len({config.backbone for config in configs}) == 1
    assert len({config.segment_length for config in configs}) == 1
    assert [config.num_memory_tokens for config in configs] == [4, 4, 4, 4, 0]
    assert [config.memory_code for config in configs[:2]] == ["sign", "continuous"]


def test_training_depends_on_the_seed_and_ends_in_time():
    first = train_to_recall("sign", seed=0, max_seconds=60.0, steps=(2, 1, 1, 1))
    again = train_to_recall("sign", seed=0, max_seconds=60.0, steps=(2, 1, 1, 1))
    other = train_to_recall("sign", seed=1, max_seconds=60.0, steps=(2, 1, 1, 1))
    assert first.steps == (2, 1, 1, 1)
    assert not first.is_learned
    weights = [list(found.model.parameters()) for found in (first, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))
    assert train_to_recall("sign", seed=0, max_seconds=0.0).steps == (1,)


def test_a_phase_whose_learning_rate_falls_ends_after_its_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recall_training, "PHASES", (Phase(SEGMENT, (1,), falling_steps=3),))
    assert train_to_recall("sign", seed=0, max_seconds=60.0).steps == (3,)
    easy = partial(CurriculumConfig, learned_below=100.0, patience=1)
    monkeypatch.setattr(recall_training, "CurriculumConfig", easy)
    learned = train_to_recall("sign", seed=0, max_seconds=60.0)
    assert learned.is_learned
    assert learned.steps == (3,)


def test_fewer_phases_are_trained_where_fewer_are_asked_for():
    """The model without memory is trained as long as a model whose training ended before its last phase."""
    assert train_to_recall("none", seed=0, max_seconds=60.0, steps=(2, 1)).steps == (2, 1)


def test_facts_stand_in_real_text_and_no_byte_of_it_is_new_to_training(tmp_path: Path):
    (tmp_path / "text.txt").write_text("grüße, \N{SNOWMAN}! " * 40 + "@A;? " * 8, "utf-8")
    corpus = read_corpus(tmp_path)
    whole = (tmp_path / "text.txt").read_bytes()
    assert bytes(corpus.training.text) + bytes(corpus.asked.text) == whole
    assert len(corpus.asked.text) == len(whole) // 10
    random = np.random.default_rng(0)
    drawn = corpus.training((64, 512), random)
    circle = bytes(corpus.training.text) * 3
    real = [bytes(row.tolist()) in circle for row in drawn]
    assert 16 < sum(real) < 48
    assert set(drawn.flatten().tolist()) == set(range(256)) - {0xC0, 0xC1, *range(0xF5, 0x100)}
    for trial in make_trials(4, length=4 * SEGMENT, segment_length=SEGMENT, seed=0, filler=corpus.asked):
        text = bytes(whole_text(trial)[0].tolist())
        assert (text.count(FACT_BEGIN), text.count(QUESTION)) == (1, 1)
        segments = [text[begin : begin + SEGMENT] for begin in range(0, len(text), SEGMENT)]
        untouched = [part for part in segments[:-1] if FACT_BEGIN not in part]
        assert all(part in bytes(corpus.asked.text) * 2 for part in untouched)
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(ValueError, match=r"corpus must have at least two bytes of text, but .* has 1"):
        read_corpus(tmp_path)
