"""The objective on held-out text during training."""

from dataclasses import dataclass, replace
from math import log

import torch
from jaxtyping import Int
from torch import Tensor

from retentive.data.batch import IGNORED, Batch, columns_of_part, rows_of_rank
from retentive.data.evaluation_windows import bytes_of_labels
from retentive.data.manifest import Split
from retentive.data.token_store import TokenStore
from retentive.models.protocol import FamilyConfig
from retentive.text.tokenizer import token_byte_lengths
from retentive.training.processes.processes import Processes
from retentive.training.run.config import TrainConfig
from retentive.training.run.sources import Reads, held_out_windows
from retentive.training.step.learner import Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutLoss:
    """The objective on held-out text.

    Attributes:
        loss: Mean over all labels, in nats.
        bits_per_byte: The same by bytes of text; None where the tokenizer cannot tell the bytes of its tokens, and
            where the objective is no likelihood of the text.
    """

    loss: float
    bits_per_byte: float | None


class HeldOutWindows:
    """The same windows of the held-out split at every evaluation, each read once from an empty memory.

    Args:
        model: Config of the model: those that read neighbours are given them.
        store: Where the tokens are.
        config: Options of the run.
        parts: Parts that each process's rows are cut into.
        reads: What a model that reads neighbours is given.
        split: ``train`` where nothing is held out.
        windows: Windows at most; None is as many as the config says.

    Raises:
        ValueError: If no document is held out.
    """

    def __init__(
        self,
        model: FamilyConfig,
        store: TokenStore,
        config: TrainConfig,
        parts: int,
        *,
        reads: Reads = "neighbours",
        split: Split = "heldout",
        windows: int | None = None,
    ) -> None:
        try:
            self._source, count = held_out_windows(model, config, store, reads, split)
        except ValueError as error:
            raise ValueError(f"{error} Or train without evaluation: held_out.every=null.") from error
        self._count = min(config.held_out.windows if windows is None else windows, count)
        self._parts = parts
        self._byte_lengths = byte_lengths(store)

    def evaluate(self, learner: Learner) -> HeldOutLoss:
        """Read all windows, shared among the learner's processes."""
        batches = [batch for step in range(self._steps()) for batch in self._share(step, learner.processes)]
        nats, labels = learner.evaluate(batches, parts=self._parts)
        if self._byte_lengths is None or not learner.objective.is_likelihood:
            return HeldOutLoss(loss=nats / max(1, labels), bits_per_byte=None)
        mine = sum(num_bytes(batch.labels, self._byte_lengths) for batch in batches)
        all_bytes = learner.processes.sum([mine])[0]
        return HeldOutLoss(loss=nats / labels, bits_per_byte=bits_per_byte(nats, all_bytes))

    def _steps(self) -> int:
        return -(-self._count // self._source.batch_size)

    def _share(self, step: int, processes: Processes) -> list[Batch]:
        """This process's rows and columns of a batch; rows beyond the last window have no labels."""
        world = processes.row_count * self._parts
        found: list[Batch] = []
        for rank in range(processes.row_rank * self._parts, (processes.row_rank + 1) * self._parts):
            batch = self._source.batch(step, rank, world)
            rows = rows_of_rank(self._source.batch_size, rank, world)
            beyond = torch.tensor([step * self._source.batch_size + row >= self._count for row in rows])
            labels = batch.labels.masked_fill(beyond[:, None], IGNORED)
            batch = replace(batch, labels=labels)
            found.append(columns_of_part(batch, processes.text_rank, processes.parts_of_text))
        return found


def byte_lengths(store: TokenStore) -> Int[Tensor, "vocab"] | None:
    """Return the bytes of every token id; None where the tokenizer cannot tell them."""
    try:
        return torch.from_numpy(token_byte_lengths(store.tokenizer))
    except ValueError:
        return None


def num_bytes(labels: Int[Tensor, "batch time"], lengths: Int[Tensor, "vocab"]) -> int:
    """Count the bytes of text of all labels."""
    return int(bytes_of_labels(labels, lengths).sum())


def bits_per_byte(nats: float, text_bytes: float) -> float | None:
    """Convert a sum of losses in nats to bits per byte of text; None without text."""
    return nats / log(2) / text_bytes if text_bytes else None
