import os
import re
import sys
import termios
import time

import pytest

from retentive.files import progress
from retentive.files.progress import ProgressBar, progress_line, still_working, with_progress


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BEFORE_FIRST", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)


def test_short_work_says_nothing(capfd):
    with ProgressBar("tokenize", total=3, unit="B") as shown:
        for _ in range(3):
            shown.advance(1)
    assert capfd.readouterr() == ("", "")


def test_long_work_prints_plain_lines_where_there_is_no_terminal(capfd, at_once):
    with ProgressBar("tokenize", total=1000, unit="B") as shown:
        shown.advance(0)
        shown.advance(250)
        shown.advance(750)
    lines = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"tokenize: 250 of 1,000 B \(25%\), [0-9,]+ B/s, about 0 s left", lines[0])
    assert re.fullmatch(r"tokenize: 1,000 of 1,000 B \(100%\), [0-9,]+ B/s, about 0 s left", lines[1])
    assert len(lines) == 2


def test_a_terminal_shows_a_bar(monkeypatch, at_once):
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (25, 80))
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with ProgressBar("tokenize", total=1000, unit="B") as shown:
            shown.advance(500)
    assert b"tokenize:" in os.read(leader, 10_000)
    os.close(leader)


def test_items_are_passed_on_and_counted_in_units(capfd, at_once):
    assert list(with_progress(["ab", "", "c"], "read", total=None, unit="letters", count=len)) == ["ab", "", "c"]
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["read: 2 letters", "read: 2 letters", "read: 3 letters"]


@pytest.mark.parametrize(
    ("done", "total", "line"),
    [
        (3000, 9000, "encode: 3,000 of 9,000 chunks (33%), 100 chunks/s, about 60 s left"),
        (3000, None, "encode: 3,000 chunks, 100 chunks/s"),
        (3, 60, "encode: 3 of 60 chunks (5%), 0.1 chunks/s, about 570 s left"),
        (9001, 9000, "encode: 9,001 of 9,000 chunks (100%), 300 chunks/s, about 0 s left"),
    ],
)
def test_a_line_tells_rate_and_time_left(done, total, line):
    assert progress_line("encode", done, total, "chunks", 30.0) == line


def test_work_that_goes_on_counts_its_rate_from_where_it_began(capfd, at_once):
    line = progress_line("train", 60, 100, "steps", 10.0, first=40, note="loss 2.000")
    assert line == "train: 60 of 100 steps (60%), 2 steps/s, about 20 s left, loss 2.000"
    with ProgressBar("train", total=100, unit="steps", done=99) as shown:
        shown.advance(1, "loss 1.000")
        shown.say("a line")
    first, second = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"train: 100 of 100 steps \(100%\), .* steps/s, about 0 s left, loss 1\.000", first)
    assert second == "a line"


def test_of_several_processes_only_one_shows_anything(capfd, at_once):
    with ProgressBar("train", total=2, unit="steps", shown=False) as shown:
        shown.advance(1)
        shown.say("a line")
    assert capfd.readouterr() == ("", "")


def test_a_stage_of_one_call_tells_that_it_goes_on(monkeypatch, capfd):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    with still_working("train"):
        time.sleep(0.05)
    lines = capfd.readouterr().err.splitlines()
    assert lines
    assert set(lines) == {"train: 0 s so far"}
    time.sleep(0.03)
    assert capfd.readouterr().err == ""
