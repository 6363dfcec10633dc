"""RETRO (Borgeaud et al. 2021, arXiv:2112.04426): a decoder that reads the neighbours of each chunk it has finished."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retentive.layers.batch_layout import BatchLayout
from retentive.layers.chunked_cross_attention import ChunkedCrossAttention, NeighbourState
from retentive.layers.token_place import PLAIN, StepContext
from retentive.models.base import DecoderModel
from retentive.models.calls import ModelCall, check_call, check_length_is_known, check_values_are_known
from retentive.models.decoder import blocks_of
from retentive.models.document_starts import begun_anew, moved_starts
from retentive.models.protocol import ModelOutput
from retentive.models.retro.chunks import Before, ChunkPlan, even_plan, place_in_chunk, ragged_plan
from retentive.models.retro.config import RetroConfig
from retentive.models.retro.encoder import Encoded, NeighbourEncoder, initialise_cross_attention
from retentive.models.retro.given import check_neighbours
from retentive.models.retro.state import RetroState, after_call, check_state
from retentive.ops.tracing import is_traced
from retentive.shapes import Hidden, TokenFlags, Tokens
from retentive.state import ModelState, RecurrentState

GivenNeighbours = Int[Tensor, "rows chunks neighbours length"] | Int[Tensor, "rows chunks length"]
GivenMask = Bool[Tensor, "rows chunks neighbours length"] | Bool[Tensor, "rows chunks length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Neighbours:
    """Neighbours of the chunks that end in a call: ids, and which of them are tokens; None where all are."""

    ids: Int[Tensor, "batch chunks neighbours length"]
    real: Bool[Tensor, "batch chunks neighbours length"] | None


@dataclass(slots=True, kw_only=True)
class _Reading:
    """What a call has of neighbours so far.

    Attributes:
        plan: Of the call.
        given: Neighbours of the chunks that end in it.
        before: The state before the call.
        recent: Hidden states of remembered tokens after the call.
        neighbours: What each layer reads after the call.
        encoded: What was given, once it is encoded.
    """

    plan: ChunkPlan
    given: _Neighbours | None
    before: RetroState
    recent: Float[Tensor, "batch recent hidden"]
    neighbours: list[NeighbourState]
    encoded: Encoded | None = None


class _Reader:
    """Lets the tokens of a call read neighbours between the halves of one block.

    No dataclass: FSDP copies those among a block's arguments, and what is read would be kept in the copy.
    """

    def __init__(self, read: Callable[[int, _Reading, Hidden], Hidden], index: int, reading: _Reading) -> None:
        self._read, self._index, self._reading = read, index, reading
        # Not where the first reader encodes for all layers.
        self.can_be_repeated = reading.given is None

    def __call__(self, hidden: Hidden) -> Hidden:
        """What the block goes on with."""
        return self._read(self._index, self._reading, hidden)


class Retro(DecoderModel):
    """A decoder that reads neighbours: text that was found for each chunk of tokens, once the chunk has ended.

    Without neighbours it is its decoder alone, to the last bit, with a state that remembers some more. With them, the
    neighbours of a chunk are read from the chunk's last token on, until the last token of the next chunk: position
    ``(u + 1) * chunk_size - 1 + chunk_offset`` is the first that those of chunk u, from 0, can change.
    """

    config: RetroConfig
    read_in_order = "the neighbours of a chunk are read across the borders of parts"
    is_plain_decoder = False
    stepped = ("decoder", "cross")

    def __init__(self, config: RetroConfig) -> None:
        """Make the model that the config describes."""
        super().__init__(config)
        self.encoder = NeighbourEncoder(config)
        decoder = config.decoder
        self.cross = nn.ModuleList(
            ChunkedCrossAttention(
                config.cross_attention, config.cross_norm, config.cross_dropout, decoder.residual_scale
            )
            for _ in config.cross_layers
        )
        rotary = config.cross_attention.rotary
        self.cross_rotary = () if rotary is None else (rotary,)
        self.fill_own()

    def fill_own(self) -> None:
        """See `DecoderModel.fill_own`."""
        config, layers = self.config, self.config.decoder.num_layers
        for cross in self._cross_layers():
            initialise_cross_attention(cross.attention, 2 * layers + len(config.cross_layers), layers, config)

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> RetroState:
        """What ``state=None`` means, as a value."""
        hidden_size, dtype = self.decoder.config.embedding.hidden_size, self.decoder.dtype
        device = self.device if device is None else device
        empty = self.decoder.initial_state(batch_size, device)
        return RetroState(
            layers=empty.layers,
            position=empty.position,
            place=torch.full_like(empty.position, -self.config.chunk_offset),
            recent_tokens=torch.zeros(batch_size, 0, dtype=torch.long, device=device),
            recent_hidden=torch.zeros(batch_size, 0, hidden_size, device=device, dtype=dtype),
            neighbours=tuple(cross.nothing(batch_size, device, dtype) for cross in self._cross_layers()),
            config=self.config,
        )

    def forward(
        self,
        tokens: Tokens,
        state: ModelState | None = None,
        labels: Tokens | None = None,
        *,
        neighbours: GivenNeighbours | None = None,
        neighbour_mask: GivenMask | None = None,
        mask: TokenFlags = None,
        starts: TokenFlags = None,
        logits_to_keep: int | None = None,
    ) -> ModelOutput:
        """Read tokens after ``state``; arguments and result are those of every `LanguageModel`, and neighbours.

        Neighbours are given to the call in which a chunk ends, the j-th set to the j-th chunk that ends in it;
        `ended_chunks` says which those are. So a sequence that is cut into calls anywhere, with each call given the
        neighbours of the chunks that end in it, is read as in one call. Calls in which no chunk ends take none: the
        neighbours that are being read are in the state.

        Args:
            tokens: Token ids.
            state: Where an earlier call stopped; None starts new sequences.
            labels: The token that each column should predict (already shifted), -100 where none counts.
            neighbours: Token ids, ``(batch, chunks, k, length)`` or, for k = 1, ``(batch, chunks, length)``, with -1
                where there is no token; k and length are free, length at least ``chunk_size``. The first tokens of a
                neighbour should be the ones that resemble the chunk, and the others their continuation. Where rows end
                different numbers of chunks, chunks are as many as the most, and those that a row lacks are not read.
                None is no neighbours, which is the same as all of them -1.
            neighbour_mask: False where ``neighbours`` holds padding other than -1.
            mask: False at padding.
            starts: True at the first token of a document: its chunks are counted from there, and nothing that came
                before is remembered or read.
            logits_to_keep: Columns from the end whose logits are wanted.

        Raises:
            TypeError: If something is no tensor, or neighbours stand where the state does.
            ValueError: If shapes, dtypes or ids do not fit; the message names the argument, the rule and the cure.
            MismatchError: If the state is not of a model of this config.
        """
        if isinstance(state, Tensor):
            raise TypeError(
                "state must be a RetroState, or None, but is a Tensor; neighbours go by name, model(tokens, "
                "neighbours=...)."
            )
        check_call(tokens, state, labels, mask, starts, logits_to_keep)
        call = ModelCall(tokens, state, labels, mask, starts, logits_to_keep)
        hidden, following = self.hidden_states(call, neighbours, neighbour_mask)
        return self.read_out(hidden, following, labels, logits_to_keep)

    def hidden_states(
        self, call: ModelCall, neighbours: GivenNeighbours | None = None, neighbour_mask: GivenMask | None = None
    ) -> tuple[Hidden, RetroState]:
        """Read tokens, and the neighbours of the chunks that end in the call."""
        tokens, mask = call.tokens, call.mask
        check_length_is_known(tokens, self.config.family)
        carried = None if call.state is None else check_state(self.config, self.decoder.dtype, call.state)
        starts, pending = moved_starts(call.starts, mask)
        plan = self._plan(tokens, carried, mask, starts)
        given = self._given(neighbours, neighbour_mask, plan, tokens.shape[0])
        hidden, following = self._read(tokens, carried, plan, given, mask, starts)
        return hidden, begun_anew(following, pending, partial(self.initial_state, device=tokens.device))

    def check_state(self, state: object) -> None:
        """Refuse a state that is not of a model of this config; see `LanguageModel.check_state`."""
        check_state(self.config, self.decoder.dtype, state)

    def step(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext = PLAIN
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read one token of each row; see `LanguageModel.step`. A chunk that ends with it ends without neighbours.

        Where a chunk ends, the model is called, unless there were no neighbours to forget: without any, the result is
        the decoder's, bit for bit.
        """
        carried = cast("RetroState", state)
        ends = not self.tokens_within(carried)
        if ends and any(read.key.shape[2] for read in carried.neighbours):
            output = self.forward(tokens[:, None], carried, logits_to_keep=1)
            assert output.logits is not None
            return output.logits[:, -1], output.state
        following = self.step_within(tokens, carried, context)
        if ends:
            following = (
                following[0],
                replace(following[1], place=place_in_chunk(following[1].place, self.config.chunk_size)),
            )
        return following

    def tokens_within(self, state: ModelState) -> int:
        """Tokens up to the last of the chunk, see `BorderedSteps`: with that one, other neighbours are read."""
        return max(0, self.config.chunk_size - 1 - max(cast("RetroState", state).place.tolist()))

    def step_within(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext
    ) -> tuple[Float[Tensor, "batch vocab"], RetroState]:
        """See `BorderedSteps`."""
        state = cast("RetroState", state)
        decoder, config, size = self.decoder, self.config, self.config.chunk_size
        place = context.place(state.position, decoder.rotary, decoder.dtype)
        # A token at place p is place p + 1 of the attending chunk, which is shifted by m - 1.
        chunk_place = context.place(state.place, self.cross_rotary, decoder.dtype, offset=size)
        layers: list[RecurrentState] = []
        recent_hidden = state.recent_hidden
        cross_of = dict(zip(config.cross_layers, zip(self._cross_layers(), state.neighbours, strict=True), strict=True))

        def between(hidden: Tensor) -> Tensor:
            nonlocal recent_hidden
            if number == config.cross_layers[0]:
                recent_hidden = context.append(recent_hidden, hidden, 1, size - 1)[1]
            cross, neighbours = cross_of[number]
            return cross.step(hidden, neighbours, chunk_place)

        hidden, number = decoder.embed_token(tokens, place.positions), 0
        for number, block in enumerate(blocks_of(decoder), 1):
            reads = between if number in cross_of else None
            hidden, layer = block.step(hidden, state.layers[number - 1], place, between=reads)
            layers.append(layer)
        real = state.recent_real
        return decoder.logits(decoder.norm(hidden)), RetroState(
            layers=tuple(layers),
            position=place.next_position,
            place=chunk_place.next_position,
            recent_tokens=context.append(state.recent_tokens, tokens, 1, size - 1)[1],
            recent_hidden=recent_hidden,
            recent_real=None if real is None else context.append(real, real.new_ones(len(real)), 1, size - 1)[1],
            neighbours=state.neighbours,
            config=config,
        )

    def ended_chunks(
        self, tokens: Tokens, state: ModelState | None = None, *, mask: TokenFlags = None, starts: TokenFlags = None
    ) -> Int[Tensor, "batch chunks chunk"]:
        """Return the chunks that end in such a call, in order: those to find neighbours for.

        Args:
            tokens: As for the call itself, like all that follow.
            state: See there.
            mask: See there.
            starts: See there.

        Returns:
            Token ids; -1 before the first token of a chunk that is shorter, and all -1 where a row has fewer chunks.
        """
        check_call(tokens, state, None, mask, starts, None)
        carried = (
            self.initial_state(tokens.shape[0])
            if state is None
            else check_state(self.config, self.decoder.dtype, state)
        )
        starts, _ = moved_starts(starts, mask)
        plan = self._plan(tokens, None if state is None else carried, mask, starts)
        chunks = plan.ended.cut(torch.cat((carried.recent_tokens, tokens.long()), 1))
        return chunks if plan.ended.real is None else chunks.where(plan.ended.real, -1)

    def _plan(self, tokens: Tokens, state: RetroState | None, mask: TokenFlags, starts: TokenFlags) -> ChunkPlan:
        batch, time = tokens.shape
        size, offset = self.config.chunk_size, self.config.chunk_offset
        if state is None:
            before = Before(places=torch.full((batch,), -offset, device=tokens.device))
        else:
            check_values_are_known(self.config.family, state=state.place)
            before = Before(places=state.place, recent=state.recent_tokens.shape[1], real=state.recent_real)
        if mask is None and starts is None and before.real is None:
            # The number of chunks that end depends on values: calls that go on from a state wait for a GPU.
            places = {-offset} if state is None else set(state.place.tolist())
            if len(places) == 1:
                return even_plan(places.pop(), before, time, size)
        return ragged_plan(before, time, size, offset, mask, starts)

    def _given(
        self, neighbours: Tensor | None, neighbour_mask: Tensor | None, plan: ChunkPlan, batch: int
    ) -> _Neighbours | None:
        if neighbours is None:
            if neighbour_mask is not None:
                raise ValueError("neighbour_mask must come with neighbours, but there are none.")
            return None
        check_neighbours(neighbours, neighbour_mask, batch, plan.reads.num_ended, self.config.chunk_size)
        if neighbours.ndim == 3:
            neighbours = neighbours.unsqueeze(2)
            neighbour_mask = None if neighbour_mask is None else neighbour_mask.unsqueeze(2)
        if not neighbours.numel():
            return None
        real = neighbours != -1
        if neighbour_mask is not None:
            real &= neighbour_mask
        if plan.reads.ragged is not None and plan.ended.real is not None:
            real &= plan.ended.real[:, :, -1, None, None]  # chunks that a row does not have
        # Attention without padding is faster. On a GPU this is not looked at, which would wait for it.
        is_whole = real.device.type == "cpu" and not is_traced() and bool(real.all())
        return _Neighbours(ids=neighbours.long(), real=None if is_whole else real)

    def _read(
        self,
        tokens: Tokens,
        state: RetroState | None,
        plan: ChunkPlan,
        given: _Neighbours | None,
        mask: TokenFlags,
        starts: TokenFlags,
    ) -> tuple[Hidden, RetroState]:
        """What the head reads, and the state after the call."""
        decoder = self.decoder
        layout = decoder.layout(tokens, None if state is None else state.position, mask=mask, starts=starts)
        before = self.initial_state(tokens.shape[0]) if state is None else state
        carried = list(before.neighbours)
        reading = _Reading(plan=plan, given=given, before=before, recent=before.recent_hidden, neighbours=carried)
        hidden, layers = decoder(decoder.embed(tokens, layout), state, layout, partial(self._through, reading=reading))
        real = plan.recent.real
        return hidden, RetroState(
            layers=layers,
            position=layout.next_position,
            place=plan.next_places,
            recent_tokens=plan.recent.cut(torch.cat((before.recent_tokens, tokens.long()), 1)).squeeze(1).clone(),
            recent_hidden=reading.recent,
            recent_real=None if real is None else real.squeeze(1),
            neighbours=tuple(reading.neighbours),
            config=self.config,
        )

    def _through(
        self, hidden: Hidden, state: RetroState | None, layout: BatchLayout, *, reading: _Reading
    ) -> tuple[Hidden, tuple[RecurrentState, ...]]:
        """Carry tokens through the blocks, between whose halves they read neighbours; the mixers' states after it."""
        layers: list[RecurrentState] = []
        places = {layer: index for index, layer in enumerate(self.config.cross_layers)}
        for number, block in enumerate(self.decoder.blocks, 1):
            between = _Reader(self._read_neighbours, places[number], reading) if number in places else None
            hidden, layer = block(hidden, None if state is None else state.layers[number - 1], layout, between=between)
            layers.append(layer)
        return hidden, tuple(layers)

    def _read_neighbours(self, index: int, reading: _Reading, hidden: Hidden) -> Hidden:
        """Let the tokens read neighbours in one of the layers that do; the first of them encodes what was given."""
        plan, given, carried = reading.plan, reading.given, reading.before.neighbours[index]
        if index == 0:
            both = torch.cat((reading.before.recent_hidden, hidden), 1)
            reading.encoded = None if given is None else self._encode(given, plan, both)
            # A copy: a view would keep the hidden states of the whole call in memory.
            reading.recent = plan.recent.cut(both).squeeze(1).clone()
        cross, ended = cast("ChunkedCrossAttention", self.cross[index]), None
        if reading.encoded is not None and given is not None:
            ended = cross.read(reading.encoded, given.real)
        reading.neighbours[index] = after_call(carried, ended, plan.reads.num_ended, plan.reads.ragged)
        return cross(hidden, carried, ended, plan.reads)

    def _encode(self, given: _Neighbours, plan: ChunkPlan, hidden: Tensor) -> Tensor:
        """Encode neighbours, each in the light of the hidden states of its chunk."""
        table = self.decoder.embedding.tokens
        return self.encoder(given.ids, given.real, plan.ended.cut(hidden), plan.ended.real, table)

    def _cross_layers(self) -> list[ChunkedCrossAttention]:
        return [cast("ChunkedCrossAttention", cross) for cross in self.cross]
