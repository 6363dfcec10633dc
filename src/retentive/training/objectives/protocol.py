"""What training asks of an objective, and of the config that makes one.

An objective is added by a subclass of each and a line in `OBJECTIVES`, which may stand outside the library::

    @dataclass(frozen=True, kw_only=True)
    class ConfidentConfig(ObjectiveConfig):
        weight: float = 0.1

        def build(self, vocabulary, device):
            return Confident(self.weight)

    class Confident(Objective):
        def __call__(self, model, window, state):
            ...
            return total, window.num_labels, output.state

    OBJECTIVES["confident"] = ConfidentConfig
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.data.batch import Batch
from retentive.models.protocol import LanguageModel
from retentive.state import RecurrentState
from retentive.training.objectives.draws import RowDraws
from retentive.training.window import Window

Measured = tuple[Float[Tensor, ""], int | Int[Tensor, ""], RecurrentState]
"""The sum of nats over a window's labels, the number of these labels, and the state after the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The token ids that an objective is made for.

    Attributes:
        size: Number of token ids.
        end_of_text: The token that ends a document; None where it is not known.
        fingerprint: Of the tokenizer; None where it is not known.
    """

    size: int
    end_of_text: int | None = None
    fingerprint: str | None = None


@runtime_checkable
class Objective(Protocol):
    """What training minimises. A subclass needs ``__call__`` alone.

    Attributes:
        is_likelihood: Whether the sum of nats is the negative log-likelihood of the text, so that it can be told in
            bits per byte.
        reads_parts: Whether processes that each measure a part of a text measure together what one does that has all
            of it: ``prepare`` asks for nothing outside a part, and no other model reads it.
    """

    is_likelihood: bool = False
    reads_parts: bool = False

    def check(self, model: LanguageModel, *, carries_state: bool) -> None:
        """Validate the model before anything is trained.

        Args:
            model: Which may have no memory for its weights yet (device "meta").
            carries_state: Whether rows go on from step to step.

        Raises:
            ValueError: If the model cannot be trained by this objective; the message says what to do instead.
        """

    def prepare(self, batch: Batch, draws: RowDraws) -> Batch:
        """Return what the model reads and predicts in place of a batch of text.

        ``draws`` is the only source of random numbers, so that a resumed run prepares the same batches.

        Labels are counted after this call: the loss of a step is the mean over the labels of all its windows.

        Args:
            batch: Text with the next token of each position as labels; on the CPU.
            draws: Random numbers for its rows.
        """
        return batch

    def initial_state(self, model: LanguageModel, batch_size: int) -> RecurrentState:
        """Return the state of rows that have read nothing; a checkpoint of carried states is loaded into it."""
        return model.initial_state(batch_size)

    def advance(self, model: nn.Module, window: Window, state: RecurrentState | None) -> RecurrentState:
        """Return the state after a window, without the loss but with the same random numbers as ``__call__``."""
        return self(model, window, state)[2]

    def __call__(self, model: nn.Module, window: Window, state: RecurrentState | None) -> Measured:
        """Measure the model on a window that follows ``state``.

        Args:
            model: Called as every language model; it may be wrapped for several processes.
            window: What it reads, and its labels.
            state: Where the window before stopped, as this objective returned it; None begins anew.

        Returns:
            The sum over the window's labels in nats, their number (``window.num_labels``), and the state after it.
        """
        ...


@runtime_checkable
class ObjectiveConfig(Protocol):
    """A frozen dataclass that makes an objective; its fields are options of the command line."""

    def build(self, vocabulary: Vocabulary, device: torch.device) -> Objective:
        """Make the objective.

        Args:
            vocabulary: The token ids that the model reads.
            device: Where the model is trained.
        """
        ...

    def digests(self) -> Mapping[str, str]:
        """Return a digest for each field that names files, so that their content is compared and not their place."""
        return {}
