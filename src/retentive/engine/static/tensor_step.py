"""A model's step as a function of tensors alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.engine.static.context import Growth, NotingContext, RingContext
from retentive.models.protocol import BorderedSteps, LanguageModel
from retentive.state import ModelState, RecurrentState, map_tensors, named_tensors, with_tensors

State = TypeVar("State", bound=ModelState)
LayerState = TypeVar("LayerState", bound=RecurrentState)


class StepForm:
    """What a step's tensors are: everything of a state but its numbers.

    Attributes:
        names: Of the state's tensors, in order.
        growing: Those that get an entry with every token, which stand in rings.
        by_columns: Those whose last dimension but one is to stand together in memory: retention, whose products sum
            over it, is then one pass of compiled code, which reads and writes a state once.
    """

    def __init__(self, model: LanguageModel, like: ModelState, *, is_compiled: bool = False) -> None:
        """Look at a state, whose marks are all there; see `with_marks`.

        Args:
            model: A `BorderedSteps` in eval mode.
            like: A state from which the model can step.
            is_compiled: Whether the step is compiled; other programs take tensors as torch lays them out.
        """
        noted = noted_by_a_step(model, like)
        self.growing: Mapping[str, Growth] = noted.growing
        self.by_columns = frozenset(noted.retained if is_compiled else ())
        self.names = tuple(named_tensors(like))
        self._template = map_tensors(like, lambda tensor: tensor.new_empty((0, *tensor.shape[1:])))

    def state(self, tensors: Sequence[Tensor]) -> ModelState:
        """The state of some tensors, in the order of `names`."""
        return with_tensors(self._template, dict(zip(self.names, tensors, strict=True)))


def step_in_rings(
    form: StepForm,
    model: nn.Module,
    tokens: Int[Tensor, "batch"],
    clock: Int[Tensor, ""],
    tensors: list[Tensor],
    context: type[RingContext] = RingContext,
) -> Float[Tensor, "batch vocab"]:
    """Read one token of each row, where no border comes, and write the state over.

    Args:
        form: Of the tensors.
        model: A `BorderedSteps`.
        tokens: Token ids.
        clock: Number of the token, see `RingContext`; counted on.
        tensors: Of the state.
        context: How the step is run.
    """
    logits, following = cast("BorderedSteps", model).step_within(tokens, form.state(tensors), context(clock))
    for held, after in zip(tensors, named_tensors(following).values(), strict=True):
        if after is not held:
            held.copy_(after)
    clock.add_(1)
    return logits


def with_borders(model: LanguageModel, use: str) -> BorderedSteps:
    """Return the model as one that says how far its steps are one function of tensors.

    Args:
        model: Of any family.
        use: What is to be done with the steps.

    Raises:
        ValueError: If it does not.
    """
    if not isinstance(model, BorderedSteps):
        raise ValueError(
            f"model must have tokens_within and step_within (BorderedSteps) for its steps to be {use}, but "
            f"{type(model).__name__} has not; engine='eager' runs it."
        )
    return model


def noted_by_a_step(model: LanguageModel, state: ModelState) -> NotingContext:
    """What a step from a state does to its tensors."""
    context = NotingContext(named_tensors(state))
    with torch.no_grad():
        cast("BorderedSteps", model).step_within(torch.zeros_like(state.position), state, context)
    return context


def with_marks(state: State) -> State:
    """The same state with the marks of its layers' entries as tensors, where all entries are real too."""
    return replace(state, layers=tuple(_with_marks(layer) for layer in state.layers))


def without_marks(state: State) -> State:
    """The state without marks that say nothing: the inverse of `with_marks`."""
    return replace(state, layers=tuple(_without_marks(layer) for layer in state.layers))


def _with_marks(layer: LayerState) -> LayerState:
    marks: dict[str, Tensor] = {}
    for name, dims in layer.ragged.items():
        field, dim = next(iter(dims.items()))
        entries: Tensor = getattr(layer, field)
        if getattr(layer, name) is None:
            marks[name] = entries.new_ones(entries.shape[0], entries.shape[dim], dtype=torch.bool)
    return replace(layer, **marks) if marks else layer


def _without_marks(layer: LayerState) -> LayerState:
    full = [name for name in layer.ragged if getattr(layer, name) is not None and bool(getattr(layer, name).all())]
    return replace(layer, **dict.fromkeys(full)) if full else layer
