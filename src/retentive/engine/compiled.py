"""Steps through ``torch.compile``: C++ that Inductor writes on CPUs, CUDA graphs on GPUs."""

from types import FunctionType
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from retentive.engine.static.ring_steps import Program, RingSteps
from retentive.engine.static.tensor_step import StepForm, step_in_rings
from retentive.models.protocol import LanguageModel, as_module
from retentive.state import ModelState, named_tensors

_PROGRAMS: WeakKeyDictionary[nn.Module, dict[object, tuple[StepForm, Program]]] = WeakKeyDictionary()
"""What was compiled for each model that is still there; programs do not hold their model."""


class CompiledSteps(RingSteps):
    """Steps of which those between borders of segments and chunks are compiled.

    A program is made for each form of a state, for one row and for several, and kept as long as the model: neither
    tokens that follow each other, nor caches that grow, nor rows that come and go, nor later calls compile anything
    anew. On a GPU, whose graphs have fixed shapes, rows are filled up to a power of two.
    """

    def __init__(self, model: LanguageModel, *, backend: str | None = "inductor") -> None:
        """Take a model; nothing is compiled before the first step.

        Args:
            model: Of any family.
            backend: Of ``torch.compile``; None runs the step over the same memory without a compiler.

        Raises:
            ValueError: If the model does not say how far its steps are one function of tensors.
        """
        super().__init__(model)
        self._backend = backend

    def program(self, state: ModelState) -> tuple[StepForm, Program]:
        """Return the compiled step for states of this form."""
        programs = _PROGRAMS.setdefault(as_module(self.model), {})
        few = state.batch_size < self._rows_worth_sharing
        form = tuple((name, tensor.dtype) for name, tensor in named_tensors(state).items())
        key = (self._backend, self.model.device, few, form)
        if key not in programs:
            form_of_step = StepForm(self.model, state, is_compiled=True)
            programs[key] = form_of_step, _compiled(self._backend, self.model.device.type, few)
        return programs[key]


def _compiled(backend: str | None, device: str, on_one_thread: bool) -> Program:
    """`step_in_rings` as a program of its own: those that share a code object share a limit of compilations."""
    if backend is None:
        return step_in_rings
    code = step_in_rings.__code__.replace()
    own, defaults = step_in_rings.__globals__, step_in_rings.__defaults__
    step = FunctionType(code, own, argdefs=defaults, closure=step_in_rings.__closure__)
    options: dict[str, Any] = {}
    if backend == "inductor":
        options = {"triton.cudagraphs": True} if device == "cuda" else {"cpp_wrapper": True}
        if on_one_thread and device == "cpu":
            options["cpp.threads"] = 1
    return cast("Program", torch.compile(step, fullgraph=True, backend=backend, options=options or None))
