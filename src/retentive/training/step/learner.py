"""A learner: a model with its optimizer and carried states, and one training step over them."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from retentive.data.batch import Batch
from retentive.errors import DivergedError
from retentive.models.base import DecoderModel
from retentive.models.protocol import LanguageModel, as_module
from retentive.models.quantise import check_trainable
from retentive.models.recomputing import set_recomputing
from retentive.state import RecurrentState
from retentive.training.objectives.draws import RowDraws
from retentive.training.objectives.protocol import Objective
from retentive.training.processes.parallelism import Precision, autocast, gradients_exchanged, parallelise, release
from retentive.training.processes.processes import Processes
from retentive.training.processes.text_parts import check_learns_in_parts, read_in_parts
from retentive.training.step.config import OptimizerConfig, ScheduleConfig
from retentive.training.step.optimizer import gradient_norm, make_optimizer, scale_gradients
from retentive.training.step.pieces import NEXT_TOKEN, TextPiece
from retentive.training.step.replay import check_replayable, replay
from retentive.training.step.schedule import learning_rate_share
from retentive.training.step.unroll import unrolled
from retentive.training.window import Window, place

Backpropagation = Literal["plain", "recompute", "replay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """The measurements of one training step.

    Attributes:
        loss: Mean over all labels of the step, in nats, before the update.
        gradient_norm: Norm of all gradients, before clipping.
        learning_rate: Learning rate of the step.
        num_labels: Labels of the step, over all processes.
    """

    loss: float
    gradient_norm: float
    learning_rate: float
    num_labels: int


class Learner:
    """A model, its optimizer and the states it carries: everything that a step changes.

    Attributes:
        model: The model that is trained; sharded in place under FSDP.
        objective: What is minimised.
        states: State of each part of this process's rows after the last step; empty before the first step, and where no
            state is carried.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        decay_steps: int,
        seed: int,
        carries_state: bool,
        processes: Processes,
        objective: Objective = NEXT_TOKEN,
        strategy: str = "ddp",
        precision: Precision = "float32",
        backpropagation: Backpropagation = "plain",
        weights: Iterable[tuple[str, Tensor]] | None = None,
    ) -> None:
        """Wrap a model for training and make its optimizer.

        Args:
            model: On the processes' device (or on the CPU, to be sharded), with the same weights in all of them; or
                without memory, to be sharded and filled with ``weights``.
            optimizer: How a step changes the weights.
            schedule: The learning rate over the steps.
            decay_steps: Step at which the learning rate is lowest.
            seed: Decides what dropout drops, and what the objective draws.
            carries_state: Whether a step goes on from the state of the one before.
            processes: The processes that train together.
            objective: What is minimised.
            strategy: ``ddp`` or ``fsdp``.
            precision: Precision of matrix products.
            backpropagation: How gradients go back through a step; see `HardwareConfig`.
            weights: For FSDP; see `parallelise`.

        Raises:
            ValueError: If the model is quantised, the carried state would grow without bound, or the objective or the
                way of back-propagation does not fit the model.
        """
        check_trainable(model)
        objective.check(model, carries_state=carries_state)
        if carries_state and not model.state_is_bounded:
            raise ValueError(
                "data.mode='streamed' needs a model whose state stops growing, but the state of this "
                f"{model.config.family} grows with every token: give attention a model.window, where the family has "
                "one, or train with data.mode='packed'."
            )
        self.model = model
        self.processes = processes
        self.carries_state = carries_state
        self.objective = objective
        self.states: list[RecurrentState] = []
        if processes.text_group is not None:
            check_learns_in_parts(model, objective)
            read_in_parts(model, processes.text_group)
        self._wrapped = parallelise(model, processes, "fsdp" if strategy == "fsdp" else "ddp", precision, weights)
        self.optimizer = make_optimizer(as_module(model), optimizer)
        self._config, self._schedule, self._decay_steps = optimizer, schedule, decay_steps
        self._seed = seed
        self._precision: Precision = precision
        self._replays = backpropagation == "replay"
        self._prepare_backward(backpropagation)

    def step(self, number: int, parts: Sequence[Sequence[Batch]]) -> StepResult:
        """Take one optimizer step on a global batch.

        The loss is the mean over all labels of the batch, however it is cut: not a mean of means.

        Args:
            number: Of the step, from 0; the learning rate and what is drawn at random depend on it and on nothing
                before it.
            parts: This process's rows, cut into parts that are read one after another; of each part, windows that
                follow one another.

        Raises:
            DivergedError: If the loss or a gradient is not finite. Weights and optimizer are then as before the step.
        """
        windows = [
            [self._place(batch, (0, number, depth), part, len(parts)) for depth, batch in enumerate(batches)]
            for part, batches in enumerate(parts)
        ]
        mine = sum(int(window.num_labels) for part in windows for window in part)
        total_labels = int(self.processes.sum([mine])[0])
        self._wrapped.train()
        self.optimizer.zero_grad()
        before: list[RecurrentState | None] = [*self.states] if self.states else [None] * len(windows)
        after: list[RecurrentState] = []
        losses: list[Tensor] = []
        with torch.random.fork_rng(self._forked_devices()):
            torch.manual_seed(step_seed(self._seed, number, self.processes.rank))
            for part, state in zip(windows, before, strict=True):
                is_last = len(after) == len(windows) - 1
                loss, state = self._back_propagate(part, state, max(1, total_labels), exchange=is_last)
                losses.append(loss.detach())
                after.append(state)
        loss, norm = self._check(number, torch.stack(losses).sum())
        learning_rate = self._update(number, norm)
        self.states = after if self.carries_state else []
        return StepResult(loss=loss, gradient_norm=norm, learning_rate=learning_rate, num_labels=total_labels)

    def _prepare_backward(self, way: Backpropagation) -> None:
        """Validate that gradients can go back through the model in this way, and switch it on."""
        if way == "replay":
            check_replayable(as_module(self.model).train())
        if way == "recompute":
            if self.model.recomputes_segments is not None:
                self.model.recomputes_segments = True
            elif isinstance(self.model, DecoderModel):
                set_recomputing(self.model, partial(checkpoint, use_reentrant=False))
            else:
                raise ValueError(
                    f"hardware.backpropagation must be 'plain' or 'replay' for a {type(self.model).__name__}, which is "
                    "no family of this library; switch recomputing on in the model itself, where it can do that."
                )

    def _back_propagate(
        self, windows: Sequence[Window], state: RecurrentState | None, total_labels: int, *, exchange: bool
    ) -> tuple[Float[Tensor, ""], RecurrentState]:
        """Add the gradients of consecutive windows. Return their share of the loss and the state after them.

        Gradients stop at the state that comes in, and the state that is returned keeps no graph: a run over a long
        text has exactly zero gradient beyond the windows of a step, while its memory reaches to the begin of the text.
        """
        # DDP and FSDP average gradients over processes; the loss is a sum over them.
        scale = float(self.processes.count)
        state = None if state is None else state.detach()
        if self._replays:
            pieces = self._pieces(windows, total_labels, self._autocast)
            return replay(
                pieces, state, scale=scale, exchange=lambda last: gradients_exchanged(self._wrapped, last and exchange)
            )
        with gradients_exchanged(self._wrapped, exchange):
            with self._autocast():  # around all windows, so that weights are cast once
                loss, state = unrolled(self._pieces(windows, total_labels), state)
            if not loss.requires_grad:  # nothing that learns was read: a fitted RETRO without any whole chunk
                learning = [parameter for parameter in as_module(self.model).parameters() if parameter.requires_grad]
                loss = loss + sum(0.0 * parameter.sum() for parameter in learning)
            (loss * scale).backward()
        return loss.detach(), state.detach()

    def _pieces(
        self,
        windows: Sequence[Window],
        total_labels: int,
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> list[TextPiece]:
        return [
            TextPiece(
                model=self._wrapped,
                window=window,
                total_labels=total_labels,
                objective=self.objective,
                context=context,
            )
            for window in windows
        ]

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self._wrapped, self.processes.device, self._precision)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch], *, parts: int = 1) -> tuple[float, int]:
        """Measure the objective on text that is not trained on: the sum in nats, and the number of labels.

        Args:
            batches: This process's, as many as every other's; each row is read from an empty memory. What is drawn at
                random for them is the same at every call.
            parts: Parts that this process's rows are cut into: batches of the same rows' windows stand ``parts`` apart.
        """
        self._wrapped.eval()
        total, count = torch.zeros((), dtype=torch.float64, device=self.processes.device), 0
        for number, batch in enumerate(batches):
            step, part = divmod(number, parts)
            window = self._place(batch, (1, step), part, parts, carries_state=False)
            with self._autocast():
                nats, labels, _ = self.objective(self._wrapped, window, None)
            total = total + nats.double()
            count += int(labels)
        release(self._wrapped)
        self._wrapped.train()
        # Read once: a GPU works on the next batch while this one is prepared.
        nats, labels = self.processes.sum([float(total), count])
        return nats, int(labels)

    def _place(
        self, batch: Batch, key: tuple[int, ...], part: int, parts: int, *, carries_state: bool | None = None
    ) -> Window:
        """Prepare one part's batch for the objective and move it to the model."""
        carries_state = self.carries_state if carries_state is None else carries_state
        first_row = (self.processes.row_rank * parts + part) * batch.tokens.shape[0]
        batch = self.objective.prepare(batch, RowDraws(key=(self._seed, *key), first_row=first_row))
        # A cache marks its visible entries from the first document start on. Passing starts always keeps the state's
        # tensors the same in all processes, so that a checkpoint can hold them.
        keeps_starts = carries_state and self.model.caches_tokens
        goes_on = carries_state or self.processes.text_rank > 0  # a part of a text has another before it
        return place(batch, self.processes.device, carries_state=goes_on, keeps_starts=keeps_starts)

    def _forked_devices(self) -> list[torch.device]:
        return [self.processes.device] if self.processes.device.type == "cuda" else []

    def _check(self, number: int, loss: Tensor) -> tuple[float, float]:
        """Return loss and gradient norm as numbers; raise `DivergedError` if one is not finite."""
        norm = gradient_norm(self.model.parameters())
        mine, whole_norm = torch.stack((loss.double(), norm.double())).tolist()
        whole_loss = self.processes.sum([mine])[0]
        if math.isfinite(whole_loss) and math.isfinite(whole_norm):
            return whole_loss, whole_norm
        wrong = {
            name
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None and not _local(parameter.grad).isfinite().all()
        }
        anywhere = set().union(*self.processes.gather(wrong))
        names = [name for name, _ in self.model.named_parameters() if name in anywhere]
        self.optimizer.zero_grad()
        others = f", as those of {len(names) - 1} more parameters" if len(names) > 1 else ""
        where = f", and the gradient of {names[0]} is not finite{others}" if names else ""
        raise DivergedError(f"training diverged at step {number + 1}: the loss is {whole_loss}{where}.")

    def _update(self, number: int, norm: float) -> float:
        """Clip the gradients, set the learning rate and update the weights."""
        for parameter in self.model.parameters():
            # A parameter that no row used gets a zero gradient, so that it decays alike in one process and in many.
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        if self._config.clip_norm is not None and norm > self._config.clip_norm:
            scale_gradients(self.model.parameters(), self._config.clip_norm / norm)
        learning_rate = self._config.learning_rate * learning_rate_share(
            number,
            warmup_steps=self._schedule.warmup_until(self._decay_steps),
            decay_steps=self._decay_steps,
            final_share=self._schedule.final_share,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return learning_rate


def step_seed(*key: int) -> int:
    """Derive a seed from a key, such as the run's seed, the step and the process.

    A step draws nothing that depends on earlier draws, so a resumed run has no generator to restore.
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1


def _local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a sharded tensor, and any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
