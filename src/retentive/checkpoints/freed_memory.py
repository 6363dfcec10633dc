"""Memory that was freed, back to the system."""

import ctypes
import sys
from contextlib import suppress


def give_back_freed_memory() -> None:
    """Return pages of freed memory to the system, where the C library (glibc) keeps them.

    Large temporaries that are freed between long-lived tensors leave holes in the heap, which stay resident.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # other C libraries have no such function
            ctypes.CDLL(None).malloc_trim(0)
