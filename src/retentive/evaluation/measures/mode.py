"""Running a model without training it."""

from collections.abc import Generator
from contextlib import contextmanager

import torch

from retentive.models.protocol import LanguageModel


@contextmanager
def evaluating(model: LanguageModel) -> Generator[None]:
    """Put a model into evaluation mode without gradients; restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
