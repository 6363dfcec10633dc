import os
import sys
import termios

import pytest

from retentive.files import progress
from retentive.files.progress import Progress


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BEFORE_FIRST", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)


def test_short_work_says_nothing(capfd):
    with Progress("tokenize", total=3, unit="B") as shown:
        for _ in range(3):
            shown.advance(1)
    assert capfd.readouterr() == ("", "")


def test_long_work_prints_plain_lines_where_there_is_no_terminal(capfd, at_once):
    with Progress("tokenize", total=1000, unit="B") as shown:
        shown.advance(0)
        shown.advance(250)
        shown.advance(750)
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["tokenize: 25% of 1,000 B, about 0 s left", "tokenize: 100% of 1,000 B, about 0 s left"]


def test_a_terminal_shows_a_bar(monkeypatch, at_once):
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (25, 80))
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress("tokenize", total=1000, unit="B") as shown:
            shown.advance(500)
    assert b"tokenize:" in os.read(leader, 10_000)
    os.close(leader)
