"""Running a model for its answers alone."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from retentive.models.base import LanguageModel


@contextmanager
def evaluating(model: LanguageModel) -> Generator[None]:
    """Without dropout and without gradients; afterwards the model is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
