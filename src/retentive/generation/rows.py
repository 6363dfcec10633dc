"""Putting the rows of several states under one another: the way back from `RecurrentState.select`."""

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from retentive.state import RecurrentState

Carried = TypeVar("Carried", bound=RecurrentState)


def join_rows(states: Sequence[Carried]) -> Carried:
    """One state with the rows of all, in the order given.

    Entries of which rows hold different numbers (a key-value cache) stand at the end, so padding goes before them. The
    annotations say which those are: a field ``real: Bool[Tensor, "batch past"] | None`` marks the real ones among the
    entries of every field with a dimension ``past``.
    """
    first = states[0]
    if len(states) == 1:
        return first
    parts = {
        field.name: _join_values(field.name, [getattr(state, field.name) for state in states])
        for field in fields(first)
        if field.name not in _padded_fields(type(first))
    }
    for mark, dims in _marks(type(first)).items():
        parts |= _join_entries(states, mark, dims)
    return type(first)(**parts)


def _join_values(name: str, values: Sequence[object]) -> object:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(cast("list[Tensor]", values))
    if isinstance(first, RecurrentState):
        return join_rows(cast("list[RecurrentState]", values))
    if isinstance(first, tuple):
        columns = zip(*cast("list[tuple[object, ...]]", values), strict=True)
        return tuple(_join_values(name, column) for column in columns)
    assert all(value == first for value in values), f"{name} differs from state to state and is no tensor"
    return first


def _join_entries(states: Sequence[RecurrentState], mark: str, dims: Mapping[str, int]) -> dict[str, Tensor | None]:
    """Join the fields that share one dimension, and the field that marks its real entries."""
    some_field, some_dim = next(iter(dims.items()))
    lengths = [getattr(state, some_field).shape[some_dim] for state in states]
    longest = max(lengths)
    joined: dict[str, Tensor | None] = {}
    for name, dim in dims.items():
        entries: list[Tensor] = []
        for state, length in zip(states, lengths, strict=True):
            tensor: Tensor = getattr(state, name)
            shape = (*tensor.shape[:dim], longest - length, *tensor.shape[dim + 1 :])
            entries.append(torch.cat((tensor.new_zeros(shape), tensor), dim))
        joined[name] = torch.cat(entries)
    marks: list[Tensor] = []
    for state, length in zip(states, lengths, strict=True):
        real: Tensor | None = getattr(state, mark)
        tensor = getattr(state, some_field)
        if real is None:
            real = tensor.new_ones(tensor.shape[0], length, dtype=torch.bool)
        marks.append(torch.cat((real.new_zeros(tensor.shape[0], longest - length), real), 1))
    whole = torch.cat(marks)
    joined[mark] = None if bool(whole.all()) else whole
    return joined


def _padded_fields(kind: type[RecurrentState]) -> set[str]:
    """All fields that `_join_entries` joins."""
    return {name for mark, dims in _marks(kind).items() for name in (mark, *dims)}


@cache
def _marks(kind: type[RecurrentState]) -> dict[str, dict[str, int]]:
    """Each field that marks real entries, and which dimension of which fields those entries are."""
    names = {field.name: _dimensions(field.type) for field in fields(kind)}
    optional = [field.name for field in fields(kind) if _is_optional_flags(field.type)]
    marked = {mark: names[mark][1] for mark in optional if len(names[mark]) == 2}
    return {
        mark: {name: dims.index(entry) for name, dims in names.items() if entry in dims and name != mark}
        for mark, entry in marked.items()
    }


def _dimensions(annotation: Any) -> list[str]:
    """The names of the dimensions in a jaxtyping annotation, optional or not; none for anything else."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    shaped = [option.dim_str.split() for option in options if hasattr(option, "dim_str")]
    return shaped[0] if shaped else []


def _is_optional_flags(annotation: Any) -> bool:
    options = typing.get_args(annotation)
    return type(None) in options and any(getattr(option, "dtype", None) is Bool for option in options)
