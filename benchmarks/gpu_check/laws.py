"""The tests' part for devices: all laws and operators, and the kernels, on models and inputs of the device."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.racing.interleave import ROOT

TESTS = ("tests/laws", "tests/ops")
ELSEWHERE = ("test_anywhere.py", "test_accelerators.py", "test_arguments.py", "test_compiling.py")
"""Tests of what has no device, or that choose their own."""
MOST = 50
"""Failures after which a run ends."""


def check_laws(device: str, *, quick: bool, seconds: float) -> dict[str, Any]:
    """Run the tests on a device, as many at a time as there are cores, and count them.

    Args:
        device: Where models and inputs are made.
        quick: Take a few of them.
        seconds: When to stop.
    """
    chosen = ["-k", "retnet-plain and resume or half"] if quick else []
    marks = "not slow" if device.startswith("cuda") else "not slow and not kernels"
    left_out = [f"--ignore-glob=*/{name}" for name in ELSEWHERE]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *TESTS, *left_out, *chosen, "-m", marks, "-q"]
        # The shape hook cannot read programs of Triton. A failed test is printed short: all goes into one file.
        command += ["-o", "addopts=--import-mode=importlib --strict-markers", "-p", "no:cacheprovider", "--tb=short"]
        command += ["-n", str(min(8, os.cpu_count() or 1)), f"--maxfail={MOST}", f"--junitxml={report}"]
        environment = {**os.environ, "RETENTIVE_TEST_DEVICE": device, "OMP_NUM_THREADS": "1"}
        return _counted(command, environment, seconds, report)


def _counted(command: Sequence[str], environment: Mapping[str, str], seconds: float, report: Path) -> dict[str, Any]:
    # A session of its own, so that its workers end with it.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
        is_whole = True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        is_whole = False
    found: dict[str, Any] = {"is_whole": is_whole, "exit": process.returncode, "last": said.decode()[-2000:]}
    if report.exists():
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
        wrong = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        skipped = sum(case.find("skipped") is not None for case in cases)
        found |= {"passed": len(cases) - len(wrong) - skipped, "skipped": skipped, "failed": len(wrong)}
        found["failures"] = [_described(case) for case in wrong]
    found["errors"] = found.get("failures", []) + ([] if is_whole and process.returncode == 0 else ["the run failed"])
    return found


def _described(case: ElementTree.Element) -> str:
    wrong = case.find("failure")
    wrong = case.find("error") if wrong is None else wrong
    message = "" if wrong is None else wrong.get("message", "")
    return f"{case.get('classname')}::{case.get('name')}: {message[:300]}"
