"""Checks that a state fits a decoder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor

from retentive.errors import MismatchError
from retentive.layers.mixers.protocol import MixerConfig
from retentive.models.decoder import DecoderConfig
from retentive.ops.precision import autocasts
from retentive.state import ModelState

Kind = TypeVar("Kind", bound=ModelState)

Fact = tuple[str, object, object]
"""Of a state: its name, what it must be in a model, and what it is."""


def check_layers(config: DecoderConfig, dtype: torch.dtype, state: object) -> None:
    """Validate that a state is of a decoder of this config, by types, shapes and configs.

    Raises:
        MismatchError: If it is not; the message says what differs.
    """
    held = state_of_kind(state, ModelState, "a plain decoder")
    check_facts(layer_facts(config.mixers, held))
    check_config(config, held)
    check_dtypes(dtype, held)


def state_of_kind(state: object, kind: type[Kind], model: str) -> Kind:
    """Validate that a state is of the class that a kind of model returns.

    Raises:
        MismatchError: If it is not.
    """
    if type(state) is not kind:
        raise MismatchError(
            f"state must be the {kind.__name__} of {model}, but is a {type(state).__name__}; take it from this model's "
            "output or its initial_state."
        )
    return state


def layer_facts(mixers: Sequence[MixerConfig], state: ModelState) -> Iterator[Fact]:
    """Yield the required and the actual shape of each layer's state."""
    yield "layers", len(mixers), len(state.layers)
    for number, (mixer, layer) in enumerate(zip(mixers, state.layers, strict=False)):
        yield f"layers[{number}]", mixer.state_shape, layer.shape


def check_facts(facts: Iterable[Fact]) -> None:
    """Validate that every fact is as required.

    Raises:
        MismatchError: If one does; the message names it.
    """
    for name, wanted, found in facts:
        if wanted != found:
            raise MismatchError(
                f"state must be of a model of this config, but its {name}: {found}, the model's: {wanted}; states pass "
                "between models of one config only."
            )


def check_config(config: object, state: ModelState) -> None:
    """Validate that a model of the same config made the state: equal shapes alone do not mean the same.

    Raises:
        MismatchError: If one did; the message says which options differ.
    """
    if state.config is None or state.config is config or state.config == config:
        return
    differing = ", ".join(_differences(config, state.config, "config"))
    raise MismatchError(
        f"state must be of a model of this config, but {differing}; states pass between models of one config only."
    )


def check_dtypes(
    dtype: torch.dtype,
    state: ModelState,
    hidden: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Validate that no tensor is wider than the model's dtype. Narrower ones, from autocast, are widened.

    Memories and retention states are not checked: they are float32 or wider in every model.

    Args:
        dtype: Of the residual stream.
        state: Its keys and values are checked.
        hidden: Hidden states, by name.

    Raises:
        MismatchError: If something is; the message names it.
    """
    device = state.position.device
    computed = torch.get_autocast_dtype(device.type) if autocasts(device) else dtype
    keys = {
        f"layers[{number}].{name}": tensor
        for number, layer in enumerate(state.layers)
        for name, tensor in layer.computed.items()
    }
    for limit, tensors in ((computed, keys), (dtype, hidden)):
        for name, tensor in tensors.items():
            if tensor.dtype != limit and tensor.numel() and torch.promote_types(tensor.dtype, limit) != limit:
                raise MismatchError(
                    f"state must have {name} of the dtype that the model computes, {limit}, or a narrower one, but it "
                    f"is {tensor.dtype}; take a state from this model, as it is called here, or give the model the "
                    "state's dtype."
                )


def _differences(ours: object, theirs: object, name: str) -> Iterator[str]:
    """Describe what differs, by its path in the config."""
    if is_dataclass(ours) and type(ours) is type(theirs):
        for field in fields(ours):
            yield from _differences(getattr(ours, field.name), getattr(theirs, field.name), f"{name}.{field.name}")
    elif ours != theirs and isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):  # pyright: ignore[reportUnknownArgumentType]
        pairs = list(zip(ours, theirs, strict=True))  # pyright: ignore[reportUnknownArgumentType]
        for pair in dict.fromkeys(pairs):  # layers that are alike differ alike, and are named once
            yield from _differences(*pair, f"{name}[{pairs.index(pair)}]")
    elif ours != theirs:
        yield f"its {name.removeprefix('config.')}: {theirs!r}, the model's: {ours!r}"
