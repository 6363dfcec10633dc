"""Eager steps: one operation after another, for every family on every device."""

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from retentive.engine.growing.context import EngineContext
from retentive.engine.lookup import ModelView, is_observed
from retentive.engine.threads import one_thread, rows_worth_sharing
from retentive.models.protocol import LanguageModel, as_module
from retentive.shapes import TokenMask, Tokens
from retentive.state import ModelState, map_tensors

Read = tuple[Float[Tensor, "rows vocab"] | None, ModelState]


class EagerSteps:
    """Reads prompts and single tokens. It owns the state between steps: a step may overwrite the one before."""

    def __init__(self, model: LanguageModel) -> None:
        """Take a model; nothing of it is read before the first call.

        Args:
            model: Of any family.
        """
        self.model = model
        self.watches_model = True
        """Whether to look before each token if the model's weights have changed; `begin` always looks."""
        self._view: ModelView | None = None
        self._context = EngineContext()
        device = model.device
        self._rows_worth_sharing = rows_worth_sharing(model) if device.type == "cpu" else 0

    def apart(self) -> "EagerSteps":
        """Return steps of the same kind, whose states are their own."""
        return EagerSteps(self.model)

    def read(
        self,
        tokens: Tokens,
        mask: TokenMask | None,
        state: ModelState | None,
        beside: Mapping[str, Any],
        *,
        keep: int,
    ) -> Read:
        """Read some columns; return the logits of the last one (None if ``keep`` is 0) and the state."""
        with one_thread(tokens.numel() < self._rows_worth_sharing):
            output = self.model(tokens, state, mask=mask, logits_to_keep=keep, **beside)
        return None if output.logits is None else output.logits[:, -1], output.state

    def own(self, state: ModelState) -> ModelState:
        """Return a copy of a state, checked, that steps may write over; call it when rows have come or gone."""
        self.model.check_state(state)
        self._context.clear()
        return map_tensors(state, Tensor.clone)

    def value(self, state: ModelState) -> ModelState:
        """Return an ordinary state of one that `own` or `step` returned: for saving, selecting and joining rows."""
        return state

    def at_border(self, state: ModelState) -> ModelState:
        """Return an ordinary state if the next token is at a border of a segment or a chunk, and the same one else."""
        return state

    def step(
        self, tokens: Int[Tensor, "rows"], state: ModelState, beside: Mapping[str, Any]
    ) -> tuple[Float[Tensor, "rows vocab"], ModelState]:
        """Read one token of each row after a state of `own`, or of the last step."""
        with one_thread(tokens.shape[0] < self._rows_worth_sharing):
            if beside or not self._can_step():
                logits, following = self.read(tokens[:, None], None, state, beside, keep=1)
                return cast("Tensor", logits), following
            assert self._view is not None
            return self._view.model.step(tokens, state, self._context)

    def begin(self) -> None:
        """Look whether the model has hooks. Call it before a run of steps, which do not look themselves."""
        if is_observed(as_module(self.model)):
            self._view = None
        elif self._view is None or not self._view.is_current() or not self._view.is_same_code():
            self._view = ModelView(as_module(self.model))
        else:
            self._view.derive()

    def _can_step(self) -> bool:
        """Whether the model's ``step`` does all that a call does: not with hooks, which only calls run."""
        view = self._view
        # Looking takes a fortieth of the time of a small model: it touches all of its weights.
        if view is not None and self.watches_model and not view.is_current():
            self.begin()
            view = self._view
        return view is not None


_UNCHANGED: AbstractContextManager[None] = nullcontext()


def evaluating(model: LanguageModel) -> AbstractContextManager[None]:
    """A context with the model in eval mode, and every one of its modules as it was afterwards."""
    return _evaluating(model) if model.training else _UNCHANGED


@contextmanager
def _evaluating(model: LanguageModel) -> Generator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def as_value(tensor: Tensor) -> Tensor:
    """Return a copy that no step writes over, outside inference mode, so that it can be used with gradients."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor.detach().clone()
