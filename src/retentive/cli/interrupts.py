"""Ctrl-C between two tokens, where the state is whole."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """While it is entered, the first Ctrl-C is noted, and a second one raises KeyboardInterrupt.

    A step that is interrupted midway leaves a state that some layers have written over and others have not.

    Attributes:
        asked: Whether Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        """Nothing was pressed yet."""
        self.asked = False
        self._before: object = None

    def __enter__(self) -> "Interrupts":
        """Take over the signal, unless it is ignored or handled by who calls us."""
        before = signal.getsignal(signal.SIGINT)
        if before is signal.default_int_handler and threading.current_thread() is threading.main_thread():
            self._before = before
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signal back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
