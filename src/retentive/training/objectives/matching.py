"""Matching (the hidden-state alignment of MOHAWK, arXiv:2408.10189): new mixers learn what a teacher's write."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from retentive.config_types import check_types
from retentive.models.decoder import Decoder, blocks_of
from retentive.models.protocol import LanguageModel, as_module
from retentive.state import RecurrentState
from retentive.training.objectives.distillation import DistillationState, Taught, TaughtConfig
from retentive.training.objectives.protocol import Measured, Objective, Vocabulary
from retentive.training.window import Window


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(TaughtConfig):
    """Let each mixer that is of another kind than the teacher's write what the teacher's writes.

    Each reads what the teacher's reads, so layers learn side by side and no error adds up. The loss is the squared
    difference over the square of what the teacher writes, averaged over these layers.

    Attributes:
        teacher: Folder of a saved model with as many layers and channels, which reads the same token ids.
    """

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "matching.")

    def build(self, vocabulary: Vocabulary, device: torch.device) -> Objective:
        """Read the teacher; see `TaughtConfig.load_teacher`."""
        return Matching(self.load_teacher("matching", vocabulary, device))


class Matching(Taught):
    """Relative squared error of new mixers, a number for each token, in place of nats."""

    name = "matching"

    def check(self, model: LanguageModel, *, carries_state: bool) -> None:
        """Refuse a model that has no mixer of another kind, or none of the teacher's shape."""
        super().check(model, carries_state=carries_state)
        ours, theirs = (decoder_of(as_module(each)).config for each in (model, self.teacher))
        shapes = [(one.num_layers, one.embedding.hidden_size) for one in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"matching.teacher must have the model's layers and channels, {shapes[0]}, but has {shapes[1]}."
            )
        if not new_mixers(as_module(model), as_module(self.teacher)):
            raise ValueError(
                "matching.teacher must have mixers of another kind in some layer, but all are of the model's kind."
            )

    def __call__(self, model: nn.Module, window: Window, state: RecurrentState | None) -> Measured:
        """Sum the relative errors of the tokens that have a label."""
        both = cast("DistillationState | None", state)
        shared: dict[str, Any] = {"mask": window.mask, "starts": window.starts, "logits_to_keep": 0}
        teacher = as_module(self.teacher)
        numbers = new_mixers(model, teacher)
        read: dict[int, Tensor] = {}
        wanted: dict[int, Tensor] = {}
        with torch.no_grad(), _noting(teacher, numbers, read, wanted):
            taught = self.teacher(window.tokens, None if both is None else both.teacher, **shared)
        written: dict[int, Tensor] = {}
        with _noting(model, numbers, None, written, instead=read):
            made = model(window.tokens, None if both is None else both.student, **shared, **window.extra_inputs)
        counted = window.labels >= 0
        total = torch.zeros((), dtype=torch.float64, device=window.tokens.device)
        for number in numbers:
            target = wanted[number][counted].float()
            error = (written[number][counted].float() - target).square().sum()
            total = total + (error / target.square().sum().clamp_min(1e-12)).double()
        share = total * window.num_labels / len(numbers)
        return share, window.num_labels, DistillationState(student=made.state, teacher=taught.state)


def new_mixers(model: nn.Module, teacher: nn.Module) -> list[int]:
    """Numbers of the layers whose mixers are of another kind than the teacher's."""
    kinds = [[one.state_shape[0] for one in decoder_of(each).config.mixers] for each in (model, teacher)]
    return [number for number, (ours, theirs) in enumerate(zip(*kinds, strict=True)) if ours != theirs]


def decoder_of(model: nn.Module) -> Decoder:
    """The decoder inside a model, which may be wrapped."""
    return next(module for module in model.modules() if isinstance(module, Decoder))


@contextmanager
def _noting(
    model: nn.Module,
    numbers: list[int],
    read: dict[int, Tensor] | None,
    written: dict[int, Tensor],
    instead: dict[int, Tensor] | None = None,
) -> Generator[None]:
    """Note what some mixers read and write, or give them something else to read."""
    blocks = blocks_of(decoder_of(model))
    hooks: list[Any] = []
    for number in numbers:
        mixer = cast("nn.Module", blocks[number].mixer)
        hooks.append(mixer.register_forward_pre_hook(_before(number, read, instead)))
        hooks.append(mixer.register_forward_hook(_after(number, written)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _before(number: int, read: dict[int, Tensor] | None, instead: dict[int, Tensor] | None) -> Callable[..., Any]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if read is not None:
            read[number] = inputs[0]
        return None if instead is None else (instead[number], *inputs[1:])

    return hook


def _after(number: int, written: dict[int, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Any]) -> None:
        written[number] = output[0]

    return hook
