"""Tasks over many segments: their answers follow from what stands in them, and nothing else tells them."""

import pytest
import torch

from retentive.data.batch import Batch
from retentive.data.tasks.recurrent_tasks import (
    FACT_BEGIN,
    FACT_END,
    QUESTION,
    VALUES,
    copy_segments,
    fact_in_filler,
    pairs_in_segments,
    reverse_segments,
    two_facts,
)

TASKS = {
    "memorize": lambda step, seed=0: fact_in_filler(
        step, batch_size=8, segment_length=16, segments=3, seed=seed, place="first"
    ),
    "detect": lambda step, seed=0: fact_in_filler(step, batch_size=8, segment_length=16, segments=3, seed=seed),
    "copy": lambda step, seed=0: copy_segments(
        step, batch_size=8, segment_length=4, segments=4, num_symbols=5, seed=seed
    ),
    "reverse": lambda step, seed=0: reverse_segments(
        step, batch_size=8, segment_length=4, segments=4, num_symbols=5, seed=seed
    ),
    "pairs": lambda step, seed=0: pairs_in_segments(
        step, batch_size=8, segment_length=5, num_pairs=3, num_keys=6, num_values=4, seed=seed
    ),
    "reasoning": lambda step, seed=0: two_facts(
        step, batch_size=8, segment_length=12, segments=3, num_people=3, num_places=5, seed=seed
    ),
}


def answers(batch: Batch) -> list[list[int]]:
    return [row[row != -100].tolist() for row in batch.labels]


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_depends_on_step_and_seed_alone(name: str):
    task = TASKS[name]
    first, again = task(3), task(3)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.tokens, task(4).tokens)
    assert not torch.equal(first.tokens, task(3, seed=1).tokens)
    assert first.starts[:, 0].all()
    assert not first.starts[:, 1:].any()


@pytest.mark.parametrize("place", ["first", "anywhere"])
@pytest.mark.parametrize("segments", [1, 4])
def test_the_fact_is_there_once_before_the_question_and_across_no_border(place: str, segments: int):
    seen = set()
    for step in range(20):
        batch = fact_in_filler(step, batch_size=16, segment_length=16, segments=segments, seed=0, place=place)
        assert batch.tokens.shape == (16, 16 * segments)
        for row, label in zip(batch.tokens, batch.labels, strict=True):
            text = bytes(row.tolist())
            assert (text.count(FACT_BEGIN), text.count(FACT_END), text.count(QUESTION)) == (1, 1, 1)
            begin, asked = text.index(FACT_BEGIN), text.index(QUESTION)
            assert text[begin + 2] == FACT_END
            assert begin // 16 == (begin + 2) // 16
            assert begin + 2 < asked
            assert asked >= 16 * (segments - 1)
            assert label[asked] == text[begin + 1]
            assert text[begin + 1] in VALUES
            assert (label != -100).sum() == 1
            seen.add(begin // 16)
    assert seen == (set(range(segments)) if place == "anywhere" else {0})


@pytest.mark.parametrize(("task", "turned"), [(copy_segments, False), (reverse_segments, True)])
def test_the_second_half_is_the_first(task, turned: bool):
    batch = task(0, batch_size=8, segment_length=4, segments=4, num_symbols=5, seed=0)
    assert batch.tokens.shape == (8, 16)
    for row, answer in zip(batch.tokens, answers(batch), strict=True):
        said = row[:8].tolist()
        assert answer == (said[::-1] if turned else said)
        assert row[8] == 5
        assert row[9:].tolist() == answer[:-1]


def test_the_value_is_that_of_the_key_that_is_asked():
    batch = TASKS["pairs"](0)
    assert batch.tokens.shape == (8, 20)
    for row, answer in zip(batch.tokens.view(8, 4, 5), answers(batch), strict=True):
        pairs = [segment[segment != 10].tolist() for segment in row[:-1]]
        assert all(len(pair) == 2 and pair[0] < 6 <= pair[1] < 10 for pair in pairs)
        found = dict(pairs)
        assert len(found) == 3
        assert row[-1, 0] == 11
        assert answer == [found[int(row[-1, 1])]]


def test_the_place_is_that_of_the_owner():
    batch = TASKS["reasoning"](0)
    for row, answer in zip(batch.tokens.view(8, 3, 12), answers(batch), strict=True):
        facts = row[:-1].reshape(-1, 3).tolist()
        place_of = {person: place for kind, person, place in facts if kind == 9}
        owners = [person for kind, person, _ in facts if kind == 10]
        assert len(place_of) == 3
        assert len(owners) == 1
        assert row[-1, 0] == 11
        assert answer == [place_of[owners[0]]]


def test_sizes_that_cannot_be_are_refused():
    sizes = {"batch_size": 2, "seed": 0}
    with pytest.raises(ValueError, match="segment_length must be at least 8 bytes, but is 7"):
        fact_in_filler(0, segment_length=7, segments=2, **sizes)
    with pytest.raises(ValueError, match="segments must be an even number, half of them for the answer, but are 3"):
        copy_segments(0, segment_length=4, segments=3, num_symbols=5, **sizes)
    with pytest.raises(ValueError, match="num_keys must be at least num_pairs, which is 3, but is 2"):
        pairs_in_segments(0, segment_length=4, num_pairs=3, num_keys=2, num_values=3, **sizes)
    with pytest.raises(ValueError, match="segment_length must be at least 2 tokens, but is 1"):
        pairs_in_segments(0, segment_length=1, num_pairs=3, num_keys=3, num_values=3, **sizes)
    with pytest.raises(ValueError, match=r"3 \* \(num_people \+ 1\) = 12 tokens, but is 11"):
        two_facts(0, segment_length=11, segments=2, num_people=3, num_places=3, **sizes)
    with pytest.raises(ValueError, match="num_people and segments must be at least 2, but are 1 and 2"):
        two_facts(0, segment_length=11, segments=2, num_people=1, num_places=3, **sizes)
