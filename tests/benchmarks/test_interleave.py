import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.racing.interleave import Arena, Contestant, Race, Task, WorkerError, ratio_of_rounds


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def arena(journal: Path) -> Iterator[Arena]:
    contestants = [clockwork("tick", journal), clockwork("tock", journal)]
    with Arena(contestants, threads=1) as opened:
        yield opened


def clockwork(name: str, journal: Path) -> Contestant:
    options = {"journal": str(journal), "name": name}
    return Contestant(name=name, python=Path(sys.executable), module="tests.benchmarks.clockwork", options=options)


def sleep(contestant: str, milliseconds: float) -> Task:
    return Task(contestant=contestant, work="sleep", arguments={"milliseconds": milliseconds})


def test_contestants_take_turns_and_never_overlap(arena: Arena, journal: Path) -> None:
    arena.race("race", {"short": sleep("tick", 1), "long": sleep("tock", 30)}, rounds=2, warm_ups=1)
    round_lines = ["tick starts 1", "tick ends 1", "tock starts 30", "tock ends 30"]
    assert journal.read_text().splitlines() == ["tick prepares 1", "tock prepares 30", *round_lines * 3]


def test_warm_ups_do_not_count_and_ratios_favour_the_faster(arena: Arena) -> None:
    race = arena.race("race", {"short": sleep("tick", 1), "long": sleep("tock", 60)}, rounds=3, warm_ups=2)
    assert {label: len(seconds) for label, seconds in race.seconds.items()} == {"short": 3, "long": 3}
    assert race.units == {"short": 10, "long": 10}
    assert race.facts["long"] == {"milliseconds": 60}
    assert race.fastest(["long", "short"]) == "short"
    # A sleep is never shorter than asked for, so the order is sure on any machine.
    assert min(race.seconds["long"]) >= 0.06
    assert race.times_as_fast("short", "long").median > 1 > race.times_as_fast("long", "short").median


def test_one_contestant_may_run_two_tasks(arena: Arena) -> None:
    race = arena.race("race", {"a": sleep("tick", 1), "b": sleep("tick", 2)}, rounds=1)
    assert set(race.seconds) == {"a", "b"}


def test_peak_memory_is_what_one_repetition_needs_in_a_fresh_process(arena: Arena) -> None:
    small, large = (
        arena.peak_memory(Task(contestant="tick", work="hold", arguments={"mebibytes": size})) for size in (8, 72)
    )
    # Both copies of the bytes are counted: the product and the bytearray made of it.
    assert large - small == pytest.approx(2 * 64 * 2**20, rel=0.1)


def test_facts_are_known_without_running(arena: Arena, journal: Path) -> None:
    assert arena.facts(sleep("tick", 5)) == {"milliseconds": 5}
    assert journal.read_text() == "tick prepares 5\n"


def test_what_a_work_prints_does_not_disturb_the_answers(arena: Arena) -> None:
    race = arena.race("race", {"loud": Task(contestant="tick", work="chatter")}, rounds=2)
    assert len(race.seconds["loud"]) == 2


def test_a_failing_work_is_reported_with_its_traceback_and_the_arena_goes_on(arena: Arena) -> None:
    with pytest.raises(WorkerError, match=r"worker of tock failed(.|\n)*RuntimeError: no such luck"):
        arena.race("race", {"good": sleep("tick", 1), "bad": Task(contestant="tock", work="fail")}, rounds=1)
    with pytest.raises(WorkerError, match=r"work must be one of \[.*'sleep'.*\], but is 'sing'"):
        arena.race("race", {"unknown": Task(contestant="tock", work="sing")}, rounds=1)
    assert arena.race("race", {"good": sleep("tock", 1)}, rounds=1).facts["good"] == {"milliseconds": 1}


def test_a_worker_that_dies_is_named(arena: Arena) -> None:
    with pytest.raises(WorkerError, match="worker of tick ended with code 3"):
        arena.race("race", {"gone": Task(contestant="tick", work="vanish")}, rounds=1)


def test_contestants_with_one_name_are_refused(journal: Path) -> None:
    with pytest.raises(ValueError, match="Names of contestants must differ"):
        Arena([clockwork("tick", journal), clockwork("tick", journal)])


def test_a_ratio_is_taken_round_by_round() -> None:
    # The second round is ten times slower for both, the third for one alone: neither moves the median.
    ratio = ratio_of_rounds([2.0, 20.0, 20.0, 2.2, 1.8], [1.0, 10.0, 1.0, 1.0, 1.0])
    assert ratio.median == 2.0
    assert (ratio.lower_quartile, ratio.upper_quartile) == (2.0, 2.2)
    assert ratio.rounds == 5


def test_a_single_round_is_its_own_spread() -> None:
    ratio = ratio_of_rounds([3.0], [2.0])
    assert (ratio.lower_quartile, ratio.median, ratio.upper_quartile) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(("above", "below"), [([], []), ([1.0], [1.0, 2.0])])
def test_rounds_must_match(above: list[float], below: list[float]) -> None:
    with pytest.raises(ValueError, match="Both sides must have run the same rounds"):
        ratio_of_rounds(above, below)


def test_times_are_compared_per_unit() -> None:
    race = Race(seconds={"a": [1.0, 2.0], "b": [1.0, 2.0]}, units={"a": 100, "b": 50}, facts={})
    assert race.times_as_fast("a", "b").median == 2.0
    assert race.seconds_per_unit("a") == pytest.approx(0.015)
