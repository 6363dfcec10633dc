"""What all tests share."""

import os
import signal
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

# Two spinning OpenMP threads beside another process slow small operations tenfold.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
# All that tests make stands on this device: `make gpu-check` takes a GPU.
if "RETENTIVE_TEST_DEVICE" in os.environ:
    torch.set_default_device(os.environ["RETENTIVE_TEST_DEVICE"])
# `from laws.families import ...` from any test.
sys.path.insert(0, str(Path(__file__).parent))
# A shell starts what it runs in the background deaf to Ctrl-C, and so would be the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def without_shape_checks():
    """Let arguments of wrong shapes and dtypes reach our own checks, as they do for users."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def long_training():
    """Do not check shapes, for models that train for thousands of calls: short tests check calls of each kind."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
