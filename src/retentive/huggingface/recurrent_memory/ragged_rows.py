"""Rows that stand at different places of their segments, read together: padded on the left, and masked."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.huggingface.recurrent_memory.around import Around
from retentive.huggingface.recurrent_memory.config import windows_of
from retentive.huggingface.recurrent_memory.state import Carried, row_of_tensors
from retentive.layers.mixers.key_value_cache import KeyValueState
from retentive.state import join_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPart:
    """Tokens of one segment of one row.

    Attributes:
        tokens: Those that are read.
        begins: Whether the segment begins with them, and the memory is read.
        ends: Whether it ends with them, and the memory is written.
        starts: Whether a document starts with them, whose memory is the initial one.
        past: What is cached of the segment before them; empty at its begin.
    """

    tokens: Int[Tensor, "piece"]
    begins: bool
    ends: bool
    starts: bool
    past: tuple[KeyValueState, ...] = ()

    @property
    def cached(self) -> int:
        """Columns that are cached."""
        return self.past[0].key.shape[2] if self.past else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """What came of a row.

    Attributes:
        logits: Of its tokens, part by part.
        carried: After them.
        layers: What is cached of its unfinished segment; empty without any.
    """

    logits: list[Float[Tensor, "_ vocab"]]
    carried: Carried
    layers: tuple[KeyValueState, ...] = ()


def can_be_masked(backbone: nn.Module, columns: int) -> bool:
    """Whether rows at different places can be read together.

    The model must take the positions of columns, which padding on the left shifts. A window counts columns, padding
    included, so it must reach over the ``columns`` that a row has cached and as many of padding before its next ones.
    """
    model = cast("Any", backbone)
    bare = model.get_base_model() if hasattr(model, "peft_config") else model
    takes_positions = "position_ids" in inspect.signature(bare.forward).parameters
    return takes_positions and all(width >= 2 * columns for width in windows_of(bare.config).values())


def read_rows(
    around: Around, rows: Sequence[Sequence[RowPart]], carried: Sequence[Carried], *, caches: bool
) -> list[RowResult]:
    """Read the parts of all rows, those that stand at the same place from the end together.

    Args:
        around: What reads columns.
        rows: The parts of each row.
        carried: What each row's first part reads.
        caches: Whether what is computed for unfinished segments is cached.
    """
    results = [RowResult(logits=[], carried=one) for one in carried]
    steps = max(map(len, rows), default=0)
    for step in range(steps):
        # Aligned at the end: the last step holds the last part of every row, and so all that is to be cached.
        active = [number for number, parts in enumerate(rows) if step - (steps - len(parts)) >= 0]
        parts = [rows[number][step - (steps - len(rows[number]))] for number in active]
        keeps = caches and step == steps - 1
        read = _step(around, parts, [results[number] for number in active], keeps)
        for number, result in zip(active, read, strict=True):
            results[number] = result
    return results


def _step(around: Around, parts: Sequence[RowPart], before: Sequence[RowResult], caches: bool) -> list[RowResult]:
    """Read one part of each row in one call."""
    embed = cast("Any", around.backbone).get_input_embeddings()
    read: list[Carried] = []
    columns: list[Tensor] = []
    for part, earlier in zip(parts, before, strict=True):
        text: Tensor = embed(part.tokens[None])
        read.append(around.first(1, text.device, text.dtype) if part.starts else earlier.carried)
        columns.append(around.columns(text, read[-1], begins=part.begins, ends=part.ends))
    width, cached = max(part.shape[1] for part in columns), max(part.cached for part in parts)
    padded = torch.cat([nn.functional.pad(part, (0, 0, width - part.shape[1], 0)) for part in columns])
    mask = torch.zeros(len(parts), cached + width, dtype=torch.long, device=padded.device)
    for row, (part, column) in enumerate(zip(parts, columns, strict=True)):
        mask[row, cached - part.cached : cached] = 1
        mask[row, cached + width - column.shape[1] :] = 1
    ends = [part.ends for part in parts]
    logits, carried, layers = around.read(
        padded,
        _padded_past(parts, cached) if cached else (),
        join_rows(read),
        ends=torch.tensor(ends, device=padded.device) if any(ends) else False,
        caches=caches,
        mask=mask,
        positions=(mask.cumsum(1) - 1).clamp_min(0)[:, cached:],
    )
    results: list[RowResult] = []
    for row, (part, earlier) in enumerate(zip(parts, before, strict=True)):
        end = width - (around.slots if part.ends else 0)
        kept = tuple[KeyValueState, ...]()
        if caches and not part.ends:
            kept = tuple(_real_entries(layer, row, mask[row].bool()) for layer in layers)
        results.append(
            RowResult(
                logits=[*earlier.logits, logits[row, end - len(part.tokens) : end]],
                carried=row_of_tensors(carried, row),
                layers=kept,
            )
        )
    return results


def _padded_past(parts: Sequence[RowPart], cached: int) -> tuple[KeyValueState, ...]:
    """What is cached of each row, padded on the left; zeros in rows whose segment begins."""
    some = next(part.past for part in parts if part.past)
    layers: list[KeyValueState] = []
    for number, like in enumerate(some):
        nothing = KeyValueState(key=like.key[:, :, :0], value=like.value[:, :, :0])
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for part in parts:
            layer = part.past[number] if part.past else nothing
            missing = (0, 0, cached - layer.key.shape[2], 0)
            keys.append(nn.functional.pad(layer.key, missing))
            values.append(nn.functional.pad(layer.value, missing))
        layers.append(KeyValueState(key=torch.cat(keys), value=torch.cat(values)))
    return tuple(layers)


def _real_entries(layer: KeyValueState, row: int, real: Tensor) -> KeyValueState:
    return KeyValueState(key=layer.key[row : row + 1, :, real], value=layer.value[row : row + 1, :, real])
