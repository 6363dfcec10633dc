"""The duration of a training step on this machine, for planning a run."""

import statistics
import time

import torch

from retentive.data.batch import Batch
from retentive.models.protocol import FamilyConfig
from retentive.models.registry import build
from retentive.training.run.config import DataConfig


def seconds_per_step(model: FamilyConfig, data: DataConfig, *, repetitions: int = 3) -> float:
    """Return the median duration of some training steps on random tokens, on the CPU, after one to warm up.

    Args:
        model: Config of the model.
        data: Size of a step.
        repetitions: Timed steps.
    """
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        learner = build(model)
        vocab_size = model.decoder.embedding.vocab_size
        tokens = torch.randint(0, vocab_size, (data.batch_size, data.window))
    optimizer = torch.optim.AdamW(learner.parameters(), fused=True)
    batch = Batch(tokens=tokens, labels=tokens.roll(-1, 1), starts=torch.zeros_like(tokens, dtype=torch.bool))
    beside: dict[str, torch.Tensor] = {}
    if model.chunked_reading is not None:
        # Two neighbours of each chunk, the default of training.
        size = model.chunked_reading.chunk_size
        chunks = (data.window - model.chunked_reading.chunk_offset) // size
        beside["neighbours"] = torch.randint(0, vocab_size, (data.batch_size, chunks, 2, 2 * size))
    seconds: list[float] = []
    for _ in range(repetitions + 1):
        begin = time.perf_counter()
        optimizer.zero_grad()
        loss = learner(batch.tokens, labels=batch.labels, starts=batch.starts, logits_to_keep=0, **beside).loss
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])
