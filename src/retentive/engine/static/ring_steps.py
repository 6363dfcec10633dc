"""Steps over a state in rings, whatever made the program that takes them."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.engine.eager import EagerSteps
from retentive.engine.growing.context import EngineContext
from retentive.engine.lookup import is_observed
from retentive.engine.static.rings import Rings, fill_rings
from retentive.engine.static.tensor_step import StepForm, with_borders, with_marks, without_marks
from retentive.engine.threads import one_thread
from retentive.models.protocol import LanguageModel, as_module
from retentive.private_apis import let_dimension_vary, stays_in_place
from retentive.state import ModelState, map_tensors, named_tensors, with_tensors

Program = Callable[[StepForm, nn.Module, Tensor, Tensor, list[Tensor]], Tensor]
"""What `step_in_rings` is: reads a token of each row, and writes the state over."""


@dataclass(slots=True)
class _Running:
    """A state in rings, and the program that steps it.

    Attributes:
        state: What the caller holds: its tensors are the rings.
        form: What its tensors are.
        program: The compiled step.
        rings: Its tensors.
        tokens: What is read next, in memory that stays.
        clock: The number of the next token, on the model's device.
        left: Tokens before a border; None where none comes.
        rows: Of the caller; the rings may have more.
    """

    state: ModelState
    form: StepForm
    program: Program
    rings: Rings
    tokens: Tensor
    clock: Tensor
    left: int | None
    rows: int


class RingSteps(EagerSteps):
    """Steps of which a program takes those between borders of segments and chunks.

    Prompts, and tokens at borders, are read as in eager steps.
    """

    def __init__(self, model: LanguageModel) -> None:
        """Take a model; no program is made before the first step.

        Args:
            model: Of any family.

        Raises:
            ValueError: If the model does not say how far its steps are one function of tensors.
        """
        self._bordered = with_borders(model, "compiled")
        super().__init__(model)
        self._running: _Running | None = None
        self._is_observed = False

    def apart(self) -> "RingSteps":
        """Return steps of the same programs, whose states are their own."""
        other = copy(self)
        other._running, other._context = None, EngineContext()
        return other

    @abstractmethod
    def program(self, state: ModelState) -> tuple[StepForm, Program]:
        """Return the program for states like this one, whose marks are all there."""

    def begin(self) -> None:
        """Look whether the model has hooks, which compiled code would leave out."""
        super().begin()
        self._is_observed = is_observed(as_module(self.model))

    def value(self, state: ModelState) -> ModelState:
        """Return an ordinary state: entries in order, in memory that no step writes over."""
        running = self._running
        if running is None:
            return state
        rings = running.rings.tensors
        held = named_tensors(state)
        if not any(held.get(name) is ring for name, ring in rings.items()):
            return state
        values = running.rings.values()
        mine = {name: values[name] if rings.get(name) is tensor else tensor for name, tensor in held.items()}
        found = without_marks(with_tensors(state, mine))
        return map_tensors(found, lambda tensor: tensor[: running.rows])

    def at_border(self, state: ModelState) -> ModelState:
        """See `EagerSteps.at_border`."""
        running = self._running
        if running is not None and state is running.state and running.left != 0:
            return state
        return self.value(state)

    def step(
        self, tokens: Int[Tensor, "rows"], state: ModelState, beside: Mapping[str, Any]
    ) -> tuple[Float[Tensor, "rows vocab"], ModelState]:
        """Read one token of each row after a state of `own`, or of the last step."""
        running = self._running
        if running is None or state is not running.state or running.left == 0 or running.rings.is_full:
            state = self.value(state)
            left = self._bordered.tokens_within(state)
            if beside or self._is_observed or left == 0:
                self._running = None
                return super().step(tokens, state, beside)
            running = self._running = self._start(state, left)
        rows, rings = running.rows, running.rings
        running.tokens[:rows] = tokens
        with one_thread(rows < self._rows_worth_sharing):
            tensors = list(rings.tensors.values())
            logits = running.program(running.form, as_module(self.model), running.tokens, running.clock, tensors)
        rings.clock += 1
        if running.left is not None:
            running.left -= 1
        return logits[:rows], running.state

    def _start(self, state: ModelState, left: int | None) -> _Running:
        """Bring a state into rings."""
        rows = state.batch_size
        if self.model.device.type == "cuda":
            wanted = torch.arange(1 << (rows - 1).bit_length()).clamp_max(rows - 1)
            state = state.select(wanted)
        state = with_marks(state)
        form, program = self.program(state)
        rings = fill_rings(named_tensors(state), form, left)
        tokens = torch.zeros_like(state.position)
        for name, tensor in (*rings.tensors.items(), ("tokens", tokens)):
            if state.batch_size > 1:
                let_dimension_vary(tensor, 0)
            growth = form.growing.get(name)
            if growth is not None and growth.longest is None:
                let_dimension_vary(tensor, growth.dim)
            stays_in_place(tensor)
        clock = torch.tensor(rings.clock, device=state.position.device)
        stays_in_place(clock)  # it is written too: of other memory that is written, no CUDA graph is captured
        held = form.state(list(rings.tensors.values()))
        return _Running(held, form, program, rings, tokens, clock, left, rows)
