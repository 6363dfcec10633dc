"""Signals become requests, and what was there before comes back."""

import os
import signal
import threading

import pytest

from retentive.training.run.stopping import StopRequest, stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request(number: signal.Signals, capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(number)
    with stop_on_signal() as request:
        assert not request.made
        os.kill(os.getpid(), number)
        assert request.made
    assert signal.getsignal(number) is before
    assert "stopping after this step" in capsys.readouterr().err


def test_a_second_ctrl_c_interrupts_at_once_and_a_second_sigterm_does_not():
    with stop_on_signal() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun passes a Ctrl-C on as both signals
        assert request.made
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_catch_no_signals():
    found: list[StopRequest] = []

    def work() -> None:
        with stop_on_signal() as request:
            found.append(request)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [request.made for request in found] == [False]
