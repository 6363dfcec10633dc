"""Short CPU operations run on one thread, since waking a second thread takes longer than they do."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_WORTH_SHARING = 1 << 18
"""Numbers from which a pass is shared. One of 320 x 256 took 8 microseconds on one thread; on two, of which one slept
(``OMP_WAIT_POLICY=passive``), 65 to 80. Threads that spin instead of sleeping save about as little as they cost."""

_SHARED: AbstractContextManager[None] = nullcontext()


class _OneThread(AbstractContextManager[None]):
    """Operations in this context run on one thread."""

    def __enter__(self) -> None:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads)


def threads_for(x: Tensor) -> AbstractContextManager[None]:
    """A context with one thread if ``x`` is small and on a CPU; otherwise, and in compiled code, it changes nothing."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.numel() >= _WORTH_SHARING:
        return _SHARED
    if torch.get_num_threads() == 1:
        return _SHARED
    return _OneThread()
