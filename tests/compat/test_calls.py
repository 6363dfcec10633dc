"""Every call of the packages has the same arguments here, in the same places, with the same defaults."""

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

CALLS: dict[str, list[list[str]]] = json.loads((Path(__file__).parent / "calls.json").read_text())
"""What `agreement.freeze` found in the packages: call -> name, kind and default of each argument."""

NOT_SHOWN = {"retro_pytorch.retrieval:index_embeddings"}
"""Steps between the calls that their readmes show, which are another kind of step here."""

DIFFERENT = {
    "RecurrentMemoryTransformer.num_residual_streams": "1: there is one residual stream here",
    "bert_embed.return_cls_repr": "after a mask; True or False is understood in its place too",
    "bert_embed.eps": "one place later, after the mask",
    "bert_embed.pad_id": "0, an id",
    "RETRODataset.pad_id": "0, an id",
    "chunks_to_embeddings_.pad_id": None,
    "chunks_to_index_and_embed.max_rows_per_file": None,
    "chunks_to_index_and_embed.index_kwargs": "by name: those that mean something",
    "chunks_to_precalculated_knn_.index_kwargs": "by name: those that mean something",
}
"""Argument -> how it differs; None is not there, and so refused by Python."""


def ours(call: str) -> Any:
    module, _, path = call.partition(":")
    found: Any = import_module(f"retentive.compat.{module}")
    for part in path.split("."):
        found = getattr(found, part)
    return found


def unhooked(found: Any) -> Any:
    """The signature without what the type checker of the tests adds."""
    return inspect.signature(inspect.unwrap(found) if inspect.isfunction(found) else found)


@pytest.mark.parametrize("call", sorted(set(CALLS) - NOT_SHOWN))
def test_arguments_are_theirs(call: str):
    name = call.split(":")[1].split(".")[-1]
    mine = {key: value for key, value in unhooked(ours(call)).parameters.items() if key != "self"}
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in mine.values())
    places = [one.name for one in mine.values() if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    for number, (argument, kind, default) in enumerate(CALLS[call]):
        if f"{name}.{argument}" in DIFFERENT:
            continue
        if kind == "VAR_KEYWORD":
            assert takes_any, f"{call} takes no further arguments"
            continue
        assert argument in mine, f"{call} has no argument {argument}"
        if kind == "POSITIONAL_OR_KEYWORD":
            assert places[number] == argument, f"{call}: {argument} is in another place"
        found = repr(mine[argument].default)
        # Functions as defaults are those of the twin.
        assert found == default or (" at 0x" in default and default.split()[1] in found), f"{call}.{argument}: {found}"


def test_every_difference_is_one():
    known = {f"{call.split(':')[1].split('.')[-1]}.{one[0]}" for call, listed in CALLS.items() for one in listed}
    assert set(DIFFERENT) <= known
