"""Key-value caches of texts whose parts several processes read at the same time.

Each process tells the others the entries that a later token may still read: with a window its border, without one all.
"""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from retentive.layers.batch_layout import BatchLayout
from retentive.layers.mixers.key_value_cache import KeyValueState, cache_of
from retentive.layers.text_parts import TextParts

Entries = list[tuple[Tensor, Tensor, Tensor | None]]
"""Keys, values and which of them are visible, of parts that follow one another; None where all are."""


def caches_around(
    key: Shaped[Tensor, "batch kv_heads time key_dim"],
    value: Shaped[Tensor, "batch kv_heads time value_dim"],
    state: KeyValueState | None,
    layout: BatchLayout,
    window: int | None,
    through: Tensor,
) -> tuple[KeyValueState | None, KeyValueState, Tensor]:
    """Return the cache before this process's part, that after the whole text, and ``through``; see `Exchange`.

    Args:
        key: Of this process's part, rotated.
        value: Of the same tokens.
        state: The cache before the whole text, the same in all processes; None is empty.
        layout: Where the tokens stand.
        window: A token sees itself and the ``window - 1`` tokens before it; None sees all.
        through: See `Exchange`.
    """
    parts = layout.parts
    assert parts is not None
    # At least one entry, so that there is something to exchange; a window of one token drops it again.
    kept = max(parts.lengths) if window is None else min(max(1, window - 1), max(parts.lengths))
    own = cache_of(key, value, _last_document(layout, key) if parts.have_gaps else None, kept + 1, gaps=True)
    filling = (0, 0, kept - own.key.shape[2], 0)
    told = torch.nn.functional.pad(torch.cat((own.key, own.value), 3), filling)
    found, through = parts.exchange.exchange(told, through)
    seen = None
    if own.visible is not None:
        seen = parts.exchange.share(torch.nn.functional.pad(own.visible.to(torch.uint8), filling[2:])).bool()
    dims = [key.shape[3], value.shape[3]]
    entries: Entries = []
    for number, numbers in enumerate(found):
        columns = slice(kept - min(kept, parts.lengths[number]), None)
        keys, values = numbers[:, :, columns].split(dims, 3)
        entries.append((keys, values.to(value.dtype), None if seen is None else seen[number, :, columns]))
    before = _joined(state, entries[: parts.rank], parts, window)
    after = _joined(state, entries, parts, window)
    assert after is not None
    return before, after, through


def _last_document(layout: BatchLayout, key: Tensor) -> Bool[Tensor, "batch time"]:
    """Real tokens of the document that each row's part ends in."""
    real = key.new_ones(key.shape[0], key.shape[2], dtype=torch.bool) if layout.mask is None else layout.mask
    if layout.starts is None:
        return real
    document = layout.starts.cumsum(1)
    return real & (document == document[:, -1:])


def _joined(
    state: KeyValueState | None, entries: Entries, parts: TextParts, window: int | None
) -> KeyValueState | None:
    """The cache after some parts that follow one another from the first; None where nothing was read."""
    pieces = entries if state is None else [(state.key, state.value, state.visible), *entries]
    if not pieces:
        return None
    visible = None
    if parts.have_gaps or (state is not None and state.visible is not None):
        count = len(entries)
        # What stands before a part in which a document begins is forgotten.
        forgotten = [parts.restarts[number:count].any(0) for number in range(count - len(pieces) + 1, count + 1)]
        marks = [
            ~rows[:, None].expand(-1, key.shape[2]) if mark is None else mark & ~rows[:, None]
            for (key, _, mark), rows in zip(pieces, forgotten, strict=True)
        ]
        visible = torch.cat(marks, 1)
    keys, values = torch.cat([key for key, _, _ in pieces], 2), torch.cat([value for _, value, _ in pieces], 2)
    return cache_of(keys, values, visible, window, gaps=visible is not None)
