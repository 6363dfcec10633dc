"""The tensor names of other packages beside ours, as tables that are read in both directions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from retentive.checkpoints.tensor_file import LateTensors, listed
from retentive.errors import MismatchError


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of ours and what it is made of.

    Attributes:
        ours: Its name, with ``{layer}`` for the number of a block from 0.
        theirs: Names of the tensors that, concatenated along their rows, are ours.
        rows: For several of theirs, the size that gives the rows of each: ``keys``, ``values``, ``inner`` and so on.
        transposed: Whether theirs has inputs along its rows, as GPT-2's linear layers do.
        added: What ours has more than theirs: 1 for Gemma's norms, which multiply by a weight and one.
    """

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[str, ...] = ()
    transposed: bool = False
    added: float = 0.0


@dataclass(frozen=True, slots=True)
class KeyMap:
    """All tensors of a format.

    Attributes:
        entries: Every tensor that a model of the format may have; those count whose name the model of ours has. Where
            several give the same tensor of ours, the first is the one that is written, the others are older layouts.
        derived: Tensors of theirs that follow from the config: not read, and computed again in writing.
        copies: Tensors of theirs that repeat another one where embeddings are tied: ``(copy, original)``.
        ignored: Suffixes of names of tensors without weights, such as the masks in old checkpoints of GPT-2.
    """

    entries: tuple[Entry, ...]
    derived: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()


Shapes = Mapping[str, torch.Size]


def to_ours(
    key_map: KeyMap,
    shapes: Shapes,
    read: Callable[[str], Tensor],
    expected: Shapes,
    sizes: Mapping[str, int],
    derived: Mapping[str, Tensor],
    source: str,
) -> LateTensors:
    """Make our model's tensors from theirs, each when it is asked for.

    Args:
        key_map: Of their format.
        shapes: Of theirs by name.
        read: Gives one of theirs.
        expected: Ours by name.
        sizes: The sizes that `Entry.rows` names.
        derived: Values of `KeyMap.derived`, for their shapes.
        source: The checkpoint, named in messages.

    Raises:
        MismatchError: If a tensor is missing, unexpected or of another shape; the message names it.
    """
    entries = _chosen(key_map, expected, shapes)
    should = {name: tensor.shape for name, tensor in derived.items()}
    for entry in entries:
        should.update(_their_shapes(entry, expected[entry.ours], sizes))
    _check(key_map, entries, shapes, expected, should, source)
    for copy, original in key_map.copies:
        if copy in shapes and original in shapes and not _is_mapped(copy, entries):
            _check_copy(copy, original, read, source)
    makers = {entry.ours: entry for entry in entries}
    return LateTensors({name: expected[name] for name in makers}, lambda name: _join(makers[name], read))


def to_theirs(
    key_map: KeyMap, tensors: Mapping[str, Tensor], sizes: Mapping[str, int], derived: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Make their tensors from our model's: the inverse of `to_ours`.

    Args:
        key_map: Of their format.
        tensors: Ours.
        sizes: The sizes that `Entry.rows` names.
        derived: Values of `KeyMap.derived`.

    Raises:
        MismatchError: If a tensor of ours has no place in their format.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    entries = _chosen(key_map, shapes, None)
    homeless = set(tensors) - {entry.ours for entry in entries}
    if homeless:
        raise MismatchError(f"this format has no place for {listed(homeless)}; choose another.")
    found: dict[str, Tensor] = {}
    for entry in entries:
        found.update(_split(entry, tensors[entry.ours], sizes))
    found.update({name: derived[name] for name in derived if name in _derived_names(key_map, _num_layers(shapes))})
    for copy, original in key_map.copies:
        if copy not in found and original in found:
            found[copy] = found[original]
    return found


def their_names(key_map: KeyMap, expected: Shapes) -> set[str]:
    """Names that `to_theirs` writes for a model of ours with tensors of these names."""
    entries = _chosen(key_map, expected, None)
    names = {name for entry in entries for name in entry.theirs}
    names |= _derived_names(key_map, _num_layers(expected))
    return names | {copy for copy, original in key_map.copies if original in names}


def side(shapes: Shapes, name: str, place: int) -> int:
    """The size of the model that one side of a matrix gives.

    Raises:
        MismatchError: If it is missing, or no matrix; the message names it.
    """
    if name not in shapes:
        raise MismatchError(f"source must hold the tensors of a model, but {name} is missing; copy it again.")
    shape = shapes[name]
    if len(shape) != 2:
        raise MismatchError(f"{name} must be a matrix, but is {tuple(shape)}; copy the source again.")
    return shape[place]


def _chosen(key_map: KeyMap, expected: Shapes, present: Shapes | None) -> list[Entry]:
    """One entry for each tensor of ours: the layout that most of theirs are in, or else the first."""
    candidates: dict[str, list[Entry]] = {}
    for entry in key_map.entries:
        candidates.setdefault(entry.ours, []).append(entry)
    layers = range(_num_layers(expected))
    chosen: dict[str, Entry] = {}
    for layouts in candidates.values():
        layout = layouts[0] if present is None else max(layouts, key=lambda one: _presence(one, layers, present))
        chosen.update({filled.ours: filled for filled in _filled(layout, layers) if filled.ours in expected})
    return list(chosen.values())


def _presence(entry: Entry, layers: Iterable[int], present: Shapes) -> tuple[int, int]:
    """The number of an entry's tensors in all blocks, then minus its names: between equals, fewer names win."""
    names = {name for filled in _filled(entry, layers) for name in filled.theirs}
    return len(names & present.keys()), -len(names)


def _filled(entry: Entry, layers: Iterable[int]) -> list[Entry]:
    """An entry of each block."""
    return [
        Entry(
            ours=entry.ours.replace("{layer}", str(layer)),
            theirs=tuple(name.replace("{layer}", str(layer)) for name in entry.theirs),
            rows=entry.rows,
            transposed=entry.transposed,
            added=entry.added,
        )
        for layer in layers
    ]


def _num_layers(expected: Iterable[str]) -> int:
    layers = {int(name.split(".")[2]) for name in expected if name.startswith("decoder.blocks.")}
    return max(layers, default=-1) + 1


def _derived_names(key_map: KeyMap, num_layers: int) -> set[str]:
    return {name.replace("{layer}", str(layer)) for name in key_map.derived for layer in range(num_layers)}


def _is_mapped(name: str, entries: list[Entry]) -> bool:
    return any(name in entry.theirs for entry in entries)


def _check(
    key_map: KeyMap,
    entries: list[Entry],
    shapes: Shapes,
    expected: Shapes,
    should: Shapes,
    source: str,
) -> None:
    homeless = set(expected) - {entry.ours for entry in entries}
    assert not homeless, f"the key map lacks {homeless}"
    needed = {name for entry in entries for name in entry.theirs}
    allowed = needed | _derived_names(key_map, _num_layers(expected))
    allowed |= {copy for copy, original in key_map.copies if original in needed}
    extra = {name for name in set(shapes) - allowed if not name.endswith(key_map.ignored or ("\0",))}
    missing = needed - set(shapes)
    faults: list[str] = []
    if missing:
        faults.append(f"{len(missing)} missing ({listed(missing)})")
    if extra:
        faults.append(f"{len(extra)} unknown ({listed(extra)})")
    for name, shape in should.items():
        if name in shapes and shapes[name] != shape:
            faults.append(f"{name} is {tuple(shapes[name])} and should be {tuple(shape)}")
    if faults:
        raise MismatchError(
            f"{source} must hold the tensors that its settings describe, but has {'; '.join(faults[:4])}; check the "
            "settings, or the format with --from."
        )


def _their_shapes(entry: Entry, ours: torch.Size, sizes: Mapping[str, int]) -> dict[str, torch.Size]:
    if not entry.rows:
        return {entry.theirs[0]: ours[::-1] if entry.transposed else ours}
    return {name: torch.Size((sizes[rows], *ours[1:])) for name, rows in zip(entry.theirs, entry.rows, strict=True)}


def _check_copy(copy: str, original: str, read: Callable[[str], Tensor], source: str) -> None:
    if not torch.equal(read(copy), read(original)):
        raise MismatchError(
            f"{source} says that its embeddings are tied, but {copy} differs from {original}; correct its settings."
        )


def _join(entry: Entry, read: Callable[[str], Tensor]) -> Tensor:
    parts = [read(name) for name in entry.theirs]
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    whole = whole + entry.added if entry.added else whole
    return whole.t().contiguous() if entry.transposed else whole


def _split(entry: Entry, ours: Tensor, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    if entry.transposed:
        ours = ours.t()
    ours = ours - entry.added if entry.added else ours
    parts = ours.split([sizes[rows] for rows in entry.rows]) if entry.rows else (ours,)
    return {name: part.contiguous() for name, part in zip(entry.theirs, parts, strict=True)}
