"""A token inside a chunk over parameters looked up once, see `retentive.layers.bound`: no chunk ends with it.

Such tokens are nearly all of a generated text: the neighbours that they read are keys and values in the state. Where a
chunk ends, the model is called, unless there were no neighbours to forget: text without any is the base's, bit for bit.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from retentive.layers.block import carried_by, state_with
from retentive.layers.chunked_cross_attention import ChunkedCrossAttention
from retentive.layers.places import Places
from retentive.layers.room import Room
from retentive.models.base import ModelOutput
from retentive.models.decoder import BoundDecoder, Decoder, blocks_of
from retentive.models.retro.chunks import place_in_chunk
from retentive.models.retro.config import RetroConfig
from retentive.models.retro.state import RetroState
from retentive.state import ModelState, RecurrentState


def bind_tokens(
    config: RetroConfig,
    decoder: Decoder,
    cross: Sequence[ChunkedCrossAttention],
    call: Callable[..., ModelOutput],
) -> BoundDecoder | None:
    """From the next token of each row and the state to the logits of the one after it, and the new state.

    Args:
        config: Of the model.
        decoder: The model's.
        cross: What reads neighbours, a layer each.
        call: The model; a chunk that ends here ends without neighbours.
    """
    halves = [bound for block in blocks_of(decoder) if (bound := block.bound_halves()) is not None]
    readers = [bound for layer in cross if (bound := layer.bound()) is not None]
    if len(halves) < len(decoder.blocks) or len(readers) < len(cross):
        return None
    reader_of = {layer - 1: index for index, layer in enumerate(config.cross_layers)}
    norm, head, embedding = decoder.bound_norm(), decoder.bound_head(), decoder.embedding
    weight = embedding.tokens.weight
    places, chunk = Places(decoder.rotary, weight.device, weight.dtype), _Chunk(config, weight)
    longest = config.chunk_size - 1
    tokens_before, hidden_before, real_before = (Room(1, longest) for _ in range(3))

    def apply(tokens: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        assert isinstance(state, RetroState)
        if chunk.ends(state) and any(read.key.shape[2] for read in state.neighbours):
            output = call(tokens[:, None], state, logits_to_keep=1)
            assert output.logits is not None
            return output.logits[:, -1], output.state
        positions, following, rotation = places.after(state.position)
        query_turns, next_place = chunk.after(state)
        hidden = embedding(tokens[:, None], positions)[:, 0]
        layers: list[RecurrentState] = []
        recent_hidden = state.recent_hidden
        for number, (mix, feed) in enumerate(halves):
            hidden, carried = mix(hidden, carried_by(state.layers[number]), rotation)
            layers.append(state_with(carried, following))
            if number in reader_of:
                index = reader_of[number]
                if index == 0:
                    recent_hidden = hidden_before.after(recent_hidden, hidden)[1]
                hidden = readers[index](hidden, state.neighbours[index], query_turns)
            hidden = feed(hidden)
        real = state.recent_real
        return head(norm(hidden)), RetroState(
            layers=tuple(layers),
            position=following,
            place=next_place,
            recent_tokens=tokens_before.after(state.recent_tokens, tokens)[1],
            recent_hidden=recent_hidden,
            recent_real=None if real is None else real_before.after(real, real.new_ones(len(real)))[1],
            neighbours=state.neighbours,
            config=config,
        )

    return apply


class _Chunk:
    """Where the tokens of a chunk stand, one call after the other."""

    def __init__(self, config: RetroConfig, weight: Tensor) -> None:
        self._size = config.chunk_size
        self._places = Places(config.cross_attention.rotary, weight.device, weight.dtype)
        self._expected: Tensor | None = None
        self._left = 0

    def ends(self, state: RetroState) -> bool:
        """Whether a chunk ends with the next token of any row."""
        if state.place is not self._expected:
            self._left = self._size - 1 - int(state.place.max())
            # A token at place p is place p + 1 of the attending chunk, which is shifted by m - 1.
            self._query_place = (state.place + 1) % self._size + self._size - 1
            self._expected = state.place
        return self._left < 1

    def after(self, state: RetroState) -> tuple[Tensor | None, Tensor]:
        """Rotations of the queries of the next token and the place of the one after it.

        Where a chunk ends nothing is read, before and after, so there are no rotations.
        """
        if self._left < 1:
            self._expected = None
            return None, place_in_chunk(state.place + 1, self._size)
        here = self._places.after(self._query_place)
        self._query_place = here.next_position
        self._expected = state.place + 1
        self._left -= 1
        return here.rotation, self._expected
