"""How a state changes where a document starts, where a segment begins or ends, and after a call."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from retentive.layers.memory.associative import AssociativeMemory, AssociativeState
from retentive.layers.mixers.key_value_cache import KeysAndValues, KeyValueState
from retentive.models.decoder import Decoder
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.models.rmt.segment_layout import Past, SegmentLayout, as_flags
from retentive.models.rmt.segment_parts import Plan, Rows, SegmentPart, choose, to_the_end
from retentive.models.rmt.state import RecurrentMemoryState
from retentive.shapes import Hidden, TokenFlags, Tokens
from retentive.state import RecurrentState


def restarted(state: RecurrentMemoryState, first: RecurrentMemoryState, rows: Rows) -> RecurrentMemoryState:
    """Set rows in which a document starts to ``first``, the state that documents begin with."""
    associations = tuple(
        AssociativeState(
            matrix=choose(rows, new.matrix, old.matrix),
            normaliser=choose(rows, new.normaliser, old.normaliser),
        )
        for new, old in zip(first.associations, state.associations, strict=True)
    )
    return replace(state, memory=choose(rows, first.memory, state.memory), associations=associations)


def rewound(
    tokens: Tokens,
    state: RecurrentMemoryState,
    mask: TokenFlags,
    starts: TokenFlags,
    segment_length: int,
) -> tuple[
    Int[Tensor, "batch longer"],
    RecurrentMemoryState,
    Bool[Tensor, "batch longer"] | None,
    Bool[Tensor, "batch longer"] | None,
]:
    """Go back to the begin of the unfinished segment, whose tokens are then read again."""
    again = torch.ones_like(state.segment, dtype=torch.bool) if state.real is None else state.real
    if mask is not None or state.real is not None:
        mask = torch.cat((again, torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask), 1)
    if starts is not None:
        starts = torch.cat((torch.zeros_like(again), starts), 1)
    position = state.position - state.position % segment_length
    tokens = torch.cat((state.segment, tokens), 1)
    return tokens, replace(state, position=position, segment=state.segment[:, :0], real=None), mask, starts


def past_of(part: SegmentPart, state: RecurrentMemoryState) -> Past:
    """Keys from before a part that its tokens can read."""
    recalls = part.begins is not False
    recalled, recalled_real = (state.history.shape[2], state.history_real) if recalls else (0, None)
    if part.continues is False or not state.layers:
        return Past(recalled=recalled, recalled_real=recalled_real)
    cached, cached_real = max((layer.entries for layer in state.layers), key=lambda entries: entries[0])
    return Past(cached=cached, cached_real=cached_real, recalled=recalled, recalled_real=recalled_real)


def going_on(layer: RecurrentState, part: SegmentPart) -> RecurrentState:
    """A layer's state for the next part: rows whose segment begins are restarted."""
    return layer if isinstance(part.continues, bool) else layer.restart(~part.continues)


def association_after(
    memory: AssociativeMemory, slots: Hidden, before: AssociativeState, ends: Rows
) -> AssociativeState:
    """An associative memory after a segment, in the rows where it ends.

    Args:
        memory: What stores.
        slots: What the block made of the write slots.
        before: What the memory held.
        ends: Rows whose segment ends.
    """
    if ends is False:
        return before
    after = memory.write(slots, before)
    return AssociativeState(
        matrix=choose(ends, after.matrix, before.matrix),
        normaliser=choose(ends, after.normaliser, before.normaliser),
    )


def history_after(
    config: RecurrentMemoryConfig, part: SegmentPart, state: RecurrentMemoryState, seen: tuple[Tensor, ...]
) -> tuple[Tensor, Bool[Tensor, "batch recalled"] | None]:
    """The hidden states that the next segment reads: the last ones of this segment.

    An unfinished segment that is read again changes them when it ends, any other with each of its tokens.
    """
    length = config.xl_length
    if not length:
        return state.history, state.history_real
    if config.bidirectional and part.ends is False and part.starts is False:
        return state.history, state.history_real
    if config.xl_gradient != "states":
        seen = tuple(hidden.detach() for hidden in seen)
    if part.mask is None:
        # Cut before they are stacked: a view would keep the whole segment in memory.
        new = torch.stack([hidden[:, -length:] for hidden in seen], 1)
        both = new if part.begins is True else torch.cat((state.history, new), 2)
        return both[:, :, -length:], None
    new = torch.stack(seen, 1)
    dropped, taken = as_flags(part.begins, part.mask), part.mask
    if config.bidirectional:
        ends = as_flags(part.ends, part.mask)
        dropped, taken = ends | as_flags(part.starts, part.mask), part.mask & ends[:, None]
    old = torch.ones_like(state.history[:, 0, :, 0], dtype=torch.bool)
    old = (old if state.history_real is None else state.history_real) & ~dropped[:, None]
    both, real = to_the_end(torch.cat((old, taken), 1), torch.cat((state.history, new), 2), 2)
    return both[:, :, -length:].contiguous(), real[:, -length:]


def kept_of(
    decoder: Decoder,
    config: RecurrentMemoryConfig,
    part: SegmentPart,
    segment_layout: SegmentLayout,
    layers: Sequence[RecurrentState],
) -> tuple[KeysAndValues, ...]:
    """Keys and values that the next segment can take as they are, where positions and gradients allow it."""
    length = config.xl_length
    is_same = config.xl_gradient == "none" and not config.xl_layer_above and not decoder.rotary
    if not length or not is_same or part.ends is not True or part.mask is not None:
        return ()
    caches = cast("Sequence[KeyValueState]", layers)  # mixers that can recall cache keys and values
    end = caches[0].key.shape[2] - segment_layout.writes
    both = (cache.between(end - length, end) for cache in caches)
    return tuple((key.detach(), value.detach()) for key, value in both)


def after_call(
    decoder: Decoder,
    config: RecurrentMemoryConfig,
    plan: Plan,
    state: RecurrentMemoryState,
    tokens: Tokens,
    mask: TokenFlags,
) -> RecurrentMemoryState:
    """The state after a call, of the same shape however the call came about."""
    ragged = plan.columns is not None
    segment = torch.cat((state.segment, tokens), 1)
    real, history, history_real = None, state.history, state.history_real
    if ragged:
        old = torch.ones_like(state.segment, dtype=torch.bool) if state.real is None else state.real
        new = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        segment, _ = to_the_end(torch.cat((old, new), 1), segment, 1)
        places = torch.arange(plan.unfinished, 0, -1, device=tokens.device)
        real = places <= (plan.position % config.segment_length)[:, None]
    if history_real is not None:
        begin = history.shape[2] - int(history_real.sum(1).amax())
        history, history_real = history[:, :, begin:], history_real[:, begin:]
    layers: tuple[RecurrentState, ...] = ()
    if not config.bidirectional:
        layers = tuple(_layer_after(config, layer, plan) for layer in state.layers)
        if not plan.unfinished and not ragged:
            layers = decoder.initial_state(tokens.shape[0], tokens.device).layers
    segment = segment[:, segment.shape[1] - plan.unfinished :]
    return replace(
        state,
        layers=layers,
        position=plan.position,
        segment=segment,
        real=real,
        history=history,
        history_real=history_real,
    )


def _layer_after(config: RecurrentMemoryConfig, layer: RecurrentState, plan: Plan) -> RecurrentState:
    """A layer's state between calls: its rows stand where their segments do, and finished segments are forgotten."""
    place = plan.position % config.segment_length
    layer = layer.at(torch.where(place > 0, place + config.carried_tokens, 0))
    return layer if plan.columns is None else layer.restart(place == 0).trimmed()
