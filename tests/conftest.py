"""What all tests share."""

import os
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

# Two spinning OpenMP threads beside another process slow small operations tenfold.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
# `from laws.families import ...` from any test.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def without_shape_checks():
    """Let arguments of wrong shapes and dtypes reach our own checks, as they do for users."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
