"""A token inside a segment over parameters looked up once, see `retentive.layers.bound`: no memory is read or written.

Such tokens are nearly all of a generated text. Where a segment begins or ends, the model is called.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from retentive.layers.associative_memory import AssociativeMemory
from retentive.layers.block import BoundBlock, carried_by, state_with
from retentive.layers.mixers.retention import RetentionState
from retentive.layers.places import Place, Places
from retentive.layers.room import Room
from retentive.models.base import ModelOutput
from retentive.models.decoder import BoundDecoder, Decoder
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.models.rmt.state import RecurrentMemoryState
from retentive.state import ModelState, RecurrentState


def bind_tokens(
    config: RecurrentMemoryConfig,
    decoder: Decoder,
    memories: Sequence[AssociativeMemory],
    call: Callable[..., ModelOutput],
) -> BoundDecoder | None:
    """From the next token of each row and the state to the logits of the one after it, and the new state.

    Args:
        config: Of the model.
        decoder: The model's.
        memories: Its associative memories, one a block, or none.
        call: The model.
    """
    blocks = decoder.bound_blocks()
    if blocks is None or config.bidirectional or config.token_shift:
        return None
    head, last = decoder.bound_head(), config.segment_length - 1
    run, embed = _Run(config, decoder, blocks, memories), _Embed(config, decoder)
    segment, history = Room(1), Room(2, config.xl_length)

    def apply(tokens: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        assert isinstance(state, RecurrentMemoryState)
        place = state.segment.shape[1]
        if not 0 < place < last or state.is_ragged:
            output = call(tokens[:, None], state, logits_to_keep=1)
            assert output.logits is not None
            return output.logits[:, -1], output.state
        hidden, here = embed.at(place, tokens)
        hidden, layers, seen = run.after(state, hidden, here)
        following = RecurrentMemoryState(
            layers=layers,
            position=state.position + 1,
            memory=state.memory,
            segment=segment.after(state.segment, tokens)[1],
            history=history.after(state.history, torch.stack(seen, 1))[1] if config.xl_length else state.history,
            associations=state.associations,
            config=config,
        )
        return head(hidden), following

    return apply


class _Embed:
    """What the first block reads of the next token, and where that token stands: tokens of a segment count from 0."""

    def __init__(self, config: RecurrentMemoryConfig, decoder: Decoder) -> None:
        self._embedding, rotary = decoder.embedding, decoder.rotary
        # Rotation counts the read memory and what is recalled too,
        # as `SegmentLayoutBuilder` does; learned positions do not.
        before = config.carried_tokens + config.xl_length
        self._before = 0 if rotary is None else before
        weight = self._embedding.tokens.weight
        self._places = Places(rotary, weight.device, weight.dtype)
        self._device, self._expected = weight.device, -1

    def at(self, place: int, tokens: Tensor) -> tuple[Tensor, Place]:
        """Embed the tokens of this place of the segment."""
        if place != self._expected:
            self._position = torch.tensor([place + self._before], device=self._device)
        here = self._places.after(self._position)
        self._position, self._expected = here.next_position, place + 1
        positions = here.positions
        if self._before and self._embedding.positions is not None:
            positions = positions - self._before
        return self._embedding(tokens[:, None], positions)[:, 0], here


class _Run:
    """The blocks and the norm after them, and what `RecurrentMemoryTransformer.run` does between."""

    def __init__(
        self,
        config: RecurrentMemoryConfig,
        decoder: Decoder,
        blocks: list[BoundBlock],
        memories: Sequence[AssociativeMemory],
    ) -> None:
        self._blocks, self._norm, self._memories = blocks, decoder.bound_norm(), memories
        self._recalls, self._above = config.xl_length > 0, config.xl_layer_above

    def after(
        self, state: RecurrentMemoryState, hidden: Tensor, here: Place
    ) -> tuple[Tensor, tuple[RecurrentState, ...], list[Tensor]]:
        """What the head reads, the layers' states, and what the blocks received or returned."""
        layers: list[RecurrentState] = []
        seen: list[Tensor] = []
        first = state.layers[0]
        position = first.position + 1 if isinstance(first, RetentionState) else state.position
        for index, block in enumerate(self._blocks):
            if self._memories:
                recalled = self._memories[index](hidden[:, None], state.associations[index])
                hidden = hidden + recalled[:, 0]
            received = hidden
            hidden, carried = block(hidden, carried_by(state.layers[index]), here.rotation)
            layers.append(state_with(carried, position))
            if self._recalls:
                seen.append(hidden if self._above else received)
        return self._norm(hidden), tuple(layers), seen
