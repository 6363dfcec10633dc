"""Augmentation for DNA: sequences replaced by their other strand."""

import numpy as np
import torch

from retentive.data.batch import IGNORED, Batch
from retentive.nucleotides.complement import Complement, reverse_complement


def with_random_strands(batch: Batch, step: int, *, complement: Complement, seed: int, share: float = 0.5) -> Batch:
    """Replace random rows of a batch by their reverse complement: augmentation for models of one strand.

    Labels stay with their bases, as in masked prediction; labels for the next base must be made afterwards.

    Args:
        batch: Whole sequences, one a row.
        step: Number of the batch; with ``seed`` it decides the rows.
        complement: The complement of every token id.
        seed: Another seed chooses other rows.
        share: Average share of the rows that are replaced.

    Raises:
        ValueError: If ``share`` is not from 0 to 1, or a row holds several documents.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, but is {share}.")
    if bool(batch.starts[:, 1:].any()):
        raise ValueError("starts must be True in the first column alone: a row is one sequence, to be read backwards.")
    rows = torch.from_numpy(np.random.default_rng((seed, step)).random(len(batch.tokens)) < share)[:, None]
    asked = batch.labels != IGNORED
    labels = reverse_complement(batch.labels.where(asked, 0), complement).masked_fill(~asked.flip(-1), IGNORED)
    return Batch(
        tokens=torch.where(rows, reverse_complement(batch.tokens, complement), batch.tokens),
        labels=torch.where(rows, labels, batch.labels),
        starts=batch.starts,
    )
