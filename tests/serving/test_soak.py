"""A short soak; ``make test`` runs two minutes of it beside the tests, and ``make soak`` half an hour."""

import os
from pathlib import Path

from serving.soak import Soak

SECONDS = float(os.environ.get("RETENTIVE_SOAK_SECONDS", "4"))


def test_every_answer_is_right_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    report = Soak(tmp_path, clients=8).run(SECONDS, kills=1)
    assert report.faults == []
    assert report.counts["turns that are right"] > 3
    assert report.counts["completions that are right"] > 3
    assert report.counts["kills"] == 1
    assert report.states >= len(report.told) > 3
