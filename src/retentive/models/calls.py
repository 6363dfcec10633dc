"""A call's arguments and their checks, which all language models share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from retentive.config_types import check_count
from retentive.models.protocol import LanguageModel
from retentive.models.state_values import check_state_values
from retentive.private_apis import is_batched
from retentive.shapes import TokenFlags, Tokens
from retentive.state import ModelState, RecurrentState, named_tensors


@dataclass(frozen=True, slots=True)
class ModelCall:
    """The checked arguments of a call; see `LanguageModel` for their meaning."""

    tokens: Tokens
    state: ModelState | None = None
    labels: Tokens | None = None
    mask: TokenFlags = None
    starts: TokenFlags = None
    logits_to_keep: int | None = None

    @property
    def columns_to_read_out(self) -> int:
        """Columns from the end that the head reads: all where there are labels."""
        time = self.tokens.shape[1]
        return time if self.labels is not None or self.logits_to_keep is None else min(self.logits_to_keep, time)


def check_is_model(model: object) -> None:
    """Validate that an argument is a language model, not its folder, its config or a model of another package.

    Raises:
        TypeError: If it is none; the message says how to get one.
    """
    if isinstance(getattr(model, "predicts_next_token", None), bool):
        return
    cure = "load_model(folder) reads a saved one"
    if isinstance(model, torch.nn.Module):
        cure = "of transformers' own models, `retentive convert` makes one of ours"
    raise TypeError(f"model must be a language model, but is a {type(model).__name__}: {cure}.")


def check_predicts_next(model: LanguageModel) -> None:
    """Validate that a model can predict the next token.

    Raises:
        ValueError: If it is an encoder.
    """
    check_is_model(model)
    if not model.predicts_next_token:
        raise ValueError(
            f"model must predict the next token, but this {model.config.family} is an encoder, whose tokens see those "
            "after them: make one with bidirectional=False, or ask this one for masked tokens, with labels of your own."
        )


def check_call(
    tokens: Tensor,
    state: ModelState | None,
    labels: Tensor | None,
    mask: Tensor | None,
    starts: Tensor | None,
    logits_to_keep: int | None,
) -> None:
    """Validate the arguments of a call. Values are read on the CPU alone, so that no GPU is waited for."""
    expected = (
        ("state", state, RecurrentState | None, "state of this model, or None"),
        ("tokens", tokens, Tensor, "tensor of ids"),
    )
    for name, given, kind, noun in expected:
        if not isinstance(given, kind):
            raise TypeError(f"{name} must be a {noun}, but is a {type(given).__name__}.")
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be (batch, time), but have shape {tuple(tokens.shape)}.")
    if tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"tokens must be integer ids (int64 or int32), but are {tokens.dtype}.")
    if 0 in tokens.shape:
        raise ValueError(f"tokens must hold at least one token, but have shape {tuple(tokens.shape)}.")
    for name, given, dtypes in (
        ("labels", labels, (torch.int64,)),
        ("mask", mask, (torch.bool,)),
        ("starts", starts, (torch.bool,)),
    ):
        if given is None:
            continue
        if not isinstance(given, Tensor):
            raise TypeError(
                f"{name} must be a tensor of the shape of tokens, or None, but is a {type(given).__name__}."
            )
        if given.shape != tokens.shape:
            raise ValueError(
                f"{name} must have the shape of tokens, {tuple(tokens.shape)}, but have {tuple(given.shape)}."
            )
        if given.dtype not in dtypes:
            raise ValueError(f"{name} must be {dtypes[0]}, but are {given.dtype}.")
    if state is not None and state.batch_size != tokens.shape[0]:
        raise ValueError(
            f"state must have one row for each row of tokens, {tokens.shape[0]}, but has {state.batch_size}; "
            "state.select(rows) keeps or repeats rows."
        )
    uneven = None if state is None else _uneven(state, tokens.shape[0])
    if uneven is not None:
        raise ValueError(
            f"state must have one row for each row of tokens in each of its tensors, {tokens.shape[0]}, but "
            f"{uneven}; take it from a model's output."
        )
    if state is not None:
        check_state_values(state)
    if logits_to_keep is not None:
        check_count("logits_to_keep", logits_to_keep, least=0, otherwise="None for all")


def check_length_is_known(tokens: Tensor, family: str) -> None:
    """Refuse to export one program for every length, of a family that cuts a call at borders of its own.

    Raises:
        ValueError: If ``torch.export`` follows the call with a number of tokens that is left open.
    """
    if torch.compiler.is_exporting() and isinstance(tokens.shape[1], torch.SymInt):
        raise ValueError(
            f"the number of tokens must be fixed to export a {family}, which cuts a text into segments or chunks as "
            "it runs: leave dimension 1 of tokens out of dynamic_shapes, and export a program for each length."
        )


def check_values_are_known(family: str, **given: Tensor | None) -> None:
    """Refuse what ``vmap`` makes differ, of a family that cuts a call where it says: a mask, document starts, a state.

    Raises:
        ValueError: If one of them stands for many.
    """
    for name, tensor in given.items():
        if tensor is not None and is_batched(tensor):
            raise ValueError(
                f"{name} must be the same for all that torch.func.vmap maps over, for a {family} cuts a text where it "
                "says; map over texts without it, or call the model on all rows at once."
            )


def _uneven(state: ModelState, rows: int) -> str | None:
    """What has another number of rows; None if nothing has."""
    found = ((name, tensor.shape[0]) for name, tensor in named_tensors(state).items() if tensor.shape[0] != rows)
    return next((f"its {name} has {count}" for name, count in found), None)
