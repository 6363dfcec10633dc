"""Processes that train side by side stop together, and print nothing, when they are interrupted at any time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
from pathlib import Path
from retentive.experiments.retrieval_models.workers import side_by_side

def job(name):
    Path(name).touch()
    time.sleep(600)

if __name__ == "__mp_main__":  # as a process of its own imports it
    Path("starting").touch()
    time.sleep(1)
if __name__ == "__main__":
    try:
        with side_by_side(1) as do_all:
            list(do_all(job, [("first",), ("second",)]))
    except KeyboardInterrupt:
        print("stopped")
"""


@pytest.mark.parametrize("way", ["Ctrl-C at the start", "Ctrl-C", "kill -2"])
def test_an_interrupt_ends_all_of_them_without_a_traceback(tmp_path: Path, way: str):
    (tmp_path / "script.py").write_text(SCRIPT)
    command, output = [sys.executable, "script.py"], subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=output, stderr=output, text=True, start_new_session=True, env=os.environ
    )
    limit = time.monotonic() + 60
    while not (tmp_path / ("starting" if way.endswith("start") else "first")).exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)
    if way == "kill -2":
        process.send_signal(signal.SIGINT)  # to the command alone
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    try:
        said, errors = process.communicate(timeout=60)  # until the last process that could print is gone
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (said, "Traceback" in errors) == ("stopped\n", False), errors
    assert not (tmp_path / "second").exists()
