"""Random numbers of tests: the same for the same seed, on the device of the run (``RETENTIVE_TEST_DEVICE``)."""

import torch


def seeded(seed: int) -> torch.Generator:
    """A generator on the default device."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)
