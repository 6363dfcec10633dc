"""The Recurrent Memory Transformer (Bulatov et al. 2022, arXiv:2207.06881; 2023, arXiv:2304.11062).

A decoder reads text segment by segment, each between memory tokens: ``[read memory][segment][write memory]``. What it
makes of the write memory is the next segment's read memory, so a text of any length is read in constant space.
"""

from dataclasses import replace
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from retentive.layers.batch_layout import BatchLayout
from retentive.layers.memory.associative import AssociativeMemory, AssociativeState
from retentive.layers.memory.tokens import MemoryTokens
from retentive.layers.mixers.key_value_cache import KeysAndValues
from retentive.layers.mixers.protocol import Recalled
from retentive.layers.token_place import PLAIN, StepContext
from retentive.models.base import DecoderModel
from retentive.models.calls import ModelCall, check_call, check_length_is_known
from retentive.models.decoder import blocks_of
from retentive.models.document_starts import begun_anew, moved_starts
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.models.rmt.segment_layout import SegmentLayout, SegmentLayoutBuilder
from retentive.models.rmt.segment_parts import SegmentPart, choose, even_plan, ragged_plan
from retentive.models.rmt.segment_result import Step
from retentive.models.rmt.state import RecurrentMemoryState, check_state
from retentive.models.rmt.token_step import step_inside_segment, tokens_inside_segment
from retentive.models.rmt.transitions import (
    after_call,
    association_after,
    going_on,
    history_after,
    kept_of,
    past_of,
    restarted,
    rewound,
)
from retentive.shapes import Hidden, Memory, TokenFlags, Tokens
from retentive.state import ModelState, RecurrentState


class RecurrentMemoryTransformer(DecoderModel):
    """A decoder that reads text segment by segment and carries memory tokens from each to the next.

    Attributes:
        recomputes_segments: Set it to True to forget what a segment computed and compute it again in the backward pass:
            a call over many segments then takes the memory of about one, for a third more time. Results stay the same.
    """

    config: RecurrentMemoryConfig
    read_in_order = "its memory passes from segment to segment"
    is_plain_decoder = False
    recomputes_segments: bool | None = False

    def __init__(self, config: RecurrentMemoryConfig) -> None:
        """Make the model that the config describes."""
        super().__init__(config)
        self.memory = MemoryTokens(config.memory_tokens)
        associative, layers = config.associative_memory, config.decoder.num_layers
        self.associations = nn.ModuleList()
        if associative is not None:
            self.associations.extend(AssociativeMemory(associative) for _ in range(layers))

    @property
    def longest_text(self) -> int | None:
        """None: positions begin again with every segment."""
        return None

    @property
    def state_is_bounded(self) -> bool:
        """True: the mixers' states are forgotten when a segment ends."""
        return True

    @property
    def predicts_next_token(self) -> bool:
        """Unless it is an encoder."""
        return not self.config.bidirectional

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> RecurrentMemoryState:
        """What ``state=None`` means, as a value. The memory in it carries the gradient of the learned memory."""
        dtype = self.decoder.dtype
        device = self.device if device is None else device
        empty = self.decoder.initial_state(batch_size, device)
        hidden, layers = self.decoder.config.embedding.hidden_size, self.decoder.config.num_layers
        return RecurrentMemoryState(
            layers=() if self.config.bidirectional else empty.layers,
            position=empty.position,
            memory=self.memory.first(batch_size, device, dtype),
            segment=torch.zeros(batch_size, 0, dtype=torch.long, device=device),
            history=torch.zeros(batch_size, layers, 0, hidden, device=device, dtype=dtype),
            config=self.config,
            associations=tuple(
                memory.initial_state(batch_size, device, dtype) for memory in self._associative_memories()
            ),
        )

    def hidden_states(self, call: ModelCall) -> tuple[Hidden, RecurrentMemoryState]:
        """Read tokens segment by segment.

        A document's segments begin with the document, wherever it stands in the row, so it is read the same alone or
        packed, padded or not, in one call or in many. With ``bidirectional``, a token sees what its segment holds when
        the call ends; the memory is the same however calls are cut.
        """
        check_length_is_known(call.tokens, self.config.family)
        carried = self._carried(call.tokens, call.state)
        starts, pending = moved_starts(call.starts, call.mask)
        hidden, following = self._read(call.tokens, carried, call.mask, starts, call.columns_to_read_out)
        return hidden, begun_anew(following, pending, partial(self.initial_state, device=call.tokens.device))

    def read(
        self, tokens: Tokens, state: ModelState | None = None, *, mask: TokenFlags = None, starts: TokenFlags = None
    ) -> tuple[Hidden, RecurrentMemoryState]:
        """A call without a head: the last hidden state of every token, for heads of other kinds, and the state."""
        check_call(tokens, state, None, mask, starts, None)
        return self.hidden_states(ModelCall(tokens, state, mask=mask, starts=starts))

    def check_state(self, state: object) -> None:
        """Refuse a state of another model; see `LanguageModel`."""
        check_state(self.config, self.decoder.dtype, state)

    def step(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext = PLAIN
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read one token of each row, see `LanguageModel.step`; memory is read or written at borders of segments."""
        carried = cast("RecurrentMemoryState", state)
        if tokens_inside_segment(self.config, carried):
            return self.step_within(tokens, carried, context)
        output = self.forward(tokens[:, None], carried, logits_to_keep=1)
        assert output.logits is not None
        return output.logits[:, -1], output.state

    def tokens_within(self, state: ModelState) -> int:
        """Tokens up to the last of the segment, see `BorderedSteps`; first and last tokens meet its memory."""
        return tokens_inside_segment(self.config, cast("RecurrentMemoryState", state))

    def step_within(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """See `BorderedSteps`."""
        carried, memories = cast("RecurrentMemoryState", state), self._associative_memories()
        return step_inside_segment(self.config, self.decoder, memories, tokens, carried, context)

    def summarise(self, state: RecurrentMemoryState) -> Memory:
        """Return the memory that the next segment would read if the unfinished one ended here."""
        check_state(self.config, self.decoder.dtype, state)
        if not state.segment.shape[1] or not self.config.num_memory_tokens:
            return state.memory
        unfinished = state.position % self.config.segment_length
        rows = True if state.real is None else unfinished > 0
        again = self.config.bidirectional
        tokens, mask = (state.segment if again else state.segment[:, :0]), None
        if state.real is not None:
            mask = state.real.flip(1)[:, : tokens.shape[1]]
            # Parts stand at the begin of the row, unfinished segments at its end.
            tokens = tokens.gather(1, (~state.real).to(torch.uint8).argsort(dim=1, stable=True)[:, : tokens.shape[1]])
        part = SegmentPart(
            tokens=tokens,
            start=torch.zeros_like(unfinished) if again else unfinished,
            mask=mask,
            begins=rows if again else False,
            ends=rows,
            starts=False,
            is_first=False,
            continues=False if again else rows,
        )
        return self._step(part, state, self._layout_builder(), keep=False)[1].memory

    def _carried(self, tokens: Tokens, state: ModelState | None) -> RecurrentMemoryState:
        """The state that a call goes on from."""
        if state is None:
            return self.initial_state(tokens.shape[0])
        return check_state(self.config, self.decoder.dtype, state)

    def _read(
        self,
        tokens: Tokens,
        state: RecurrentMemoryState,
        mask: TokenFlags,
        starts: TokenFlags,
        wanted: int,
    ) -> tuple[Float[Tensor, "batch columns hidden"], RecurrentMemoryState]:
        """What the head reads of the last ``wanted`` columns (at least), and the state after the call."""
        again = state.segment.shape[1] if self.config.bidirectional else 0
        if again:
            tokens, state, mask, starts = rewound(tokens, state, mask, starts, self.config.segment_length)
        time = tokens.shape[1]
        even = mask is None and starts is None and not state.is_ragged and self.config.read_first
        if even:
            plan = even_plan(tokens, state.position, state.segment.shape[1], self.config.segment_length)
        else:
            plan = ragged_plan(tokens, state.position, self.config.segment_length, mask, starts)
        builder, now, read = self._layout_builder(), state, 0
        outputs: list[Tensor] = []
        kept: tuple[KeysAndValues, ...] = ()
        for index, part in enumerate(plan.parts):
            keep = index == len(plan.parts) - 1
            read += part.tokens.shape[1]
            needed = plan.columns is not None or read > time - wanted
            if self.recomputes_segments and torch.is_grad_enabled():
                hidden, now, _ = checkpoint(self._step, part, now, builder, keep=keep, text=needed, use_reentrant=False)
            else:
                hidden, now, kept = self._step(part, now, builder, keep=keep, text=needed, kept=kept)
            if needed or keep:
                outputs.append(hidden)
        side_by_side = torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]
        following = after_call(self.decoder, self.config, plan, now, tokens, mask)
        if plan.columns is None:
            return side_by_side[:, max(0, again - (time - side_by_side.shape[1])) :], following
        places = plan.columns[..., None].expand(-1, -1, side_by_side.shape[2])
        hidden = side_by_side.gather(1, places)
        if mask is not None:
            hidden = hidden.masked_fill(~mask[..., None], 0)
        return hidden[:, again:], following

    def _layout_builder(self) -> SegmentLayoutBuilder:
        return SegmentLayoutBuilder(self.config, self.decoder.rotary, self.decoder.dtype)

    def _step(
        self,
        part: SegmentPart,
        state: RecurrentMemoryState,
        builder: SegmentLayoutBuilder,
        *,
        keep: bool,
        text: bool = True,
        kept: tuple[KeysAndValues, ...] = (),
    ) -> tuple[Float[Tensor, "batch texts hidden"], RecurrentMemoryState, tuple[KeysAndValues, ...]]:
        """Read one part: what the head reads of its tokens (if ``text`` is wanted), the state, and `Step.kept`."""
        if part.starts is not False:
            state = restarted(state, self.initial_state(state.batch_size, state.memory.device), part.starts)
        past = past_of(part, state)
        segment_layout = builder.build(part, past, keep=keep)
        text = text or not self._can_skip(part)
        step = self.run(part, state, segment_layout, self.columns(part, state, segment_layout), text=text, kept=kept)
        written = (
            step.columns[:, : segment_layout.reads] if self.config.bidirectional else step.columns[:, step.slots :]
        )
        memory = state.memory
        if part.ends is not False and self.config.num_memory_tokens:
            memory = choose(part.ends, self.memory(written), memory)
        history, history_real = history_after(self.config, part, state, step.seen)
        following = replace(
            state,
            layers=step.layers if keep else state.layers,
            memory=memory,
            history=history,
            history_real=history_real,
            associations=step.associations,
        )
        return step.columns[:, segment_layout.text if step.slots else slice(0)], following, step.kept

    def _can_skip(self, part: SegmentPart) -> bool:
        """Whether the last block can leave out the text. Not in training, where replay must find the same numbers.

        Nor with gradients: of what the write slots then recall, a part may be meant to have none (``xl_gradient``).
        """
        return (
            part.ends is True
            and part.mask is None
            and not self.training
            and not torch.is_grad_enabled()
            and self.decoder.config.takes_attention_mask
            and self.config.num_memory_tokens > 0
            and not (self.config.bidirectional or self.config.xl_layer_above)
        )

    def columns(self, part: SegmentPart, state: RecurrentMemoryState, segment_layout: SegmentLayout) -> Hidden:
        """The residual stream of ``[read memory][text][write memory]`` before the first block."""
        text = self._embed(part, state)
        streams = [text]
        if segment_layout.reads:
            streams.insert(0, state.memory.to(text.dtype))
        if segment_layout.writes:
            streams.append(self.memory.write_slots(state.memory, text.dtype).expand(text.shape[0], -1, -1))
        return torch.cat(streams, 1) if len(streams) > 1 else text

    def _embed(self, part: SegmentPart, state: RecurrentMemoryState) -> Hidden:
        tokens, places = part.tokens, part.places
        if part.mask is not None and self.decoder.embedding.positions is not None:
            places = places.where(part.mask, 0)  # there are no learned positions beyond the segment, where no token is
        shifted = self.config.token_shift
        if shifted:
            goes_on = part.continues is not False and state.segment.shape[1] > 0
            before = state.segment[:, -1:] if goes_on else torch.zeros_like(state.position)[:, None]
            tokens = torch.cat((before, tokens), 1)
            places = torch.cat(((part.start - 1).clamp_min(0)[:, None], places), 1)
        hidden = self.decoder.embedding(tokens, places)
        share = self.config.embedding_gradient
        if share < 1:
            hidden = hidden * share + hidden.detach() * (1 - share)
        if shifted:
            earlier, hidden = hidden[:, :-1], hidden[:, 1:]
            first = choose(part.continues, earlier[:, :1], torch.zeros_like(earlier[:, :1]))
            half = hidden.shape[-1] // 2
            hidden = torch.cat((hidden[..., :half], torch.cat((first, earlier[:, 1:]), 1)[..., half:]), -1)
        return self.decoder.embedding_dropout(hidden)

    def run(
        self,
        part: SegmentPart,
        state: RecurrentMemoryState,
        segment_layout: SegmentLayout,
        columns: Hidden,
        *,
        text: bool = True,
        kept: tuple[KeysAndValues, ...] = (),
    ) -> Step:
        """Carry the columns of one step through the blocks.

        Args:
            part: What is read.
            state: Before it.
            segment_layout: The positions and masks of its columns.
            columns: The residual stream before the first block.
            text: Whether the text's last hidden states are wanted. Without them the last block lets the write slots
                read the text, and computes nothing else of it.
            kept: `Step.kept` of the segment before.
        """
        through = partial(self._through, part=part, segment_layout=segment_layout, text=text, kept=kept)
        columns, step = self.decoder(columns, state, segment_layout.layout, through)
        return replace(cast("Step", step), columns=columns)

    def _through(
        self,
        columns: Hidden,
        state: RecurrentMemoryState,
        layout: BatchLayout,
        *,
        part: SegmentPart,
        segment_layout: SegmentLayout,
        text: bool,
        kept: tuple[KeysAndValues, ...],
    ) -> tuple[Float[Tensor, "batch written hidden"], Step]:
        """`run` without the norm: the columns after the last block, and the step without them."""
        layers: list[RecurrentState] = []
        seen: list[Tensor] = []
        associations: list[AssociativeState] = []
        memories = self._associative_memories()
        slots = segment_layout.text.stop
        for index, block in enumerate(blocks_of(self.decoder)):
            if memories:
                columns = columns + memories[index](columns, state.associations[index])
            received = columns
            past = going_on(state.layers[index], part) if state.layers and part.continues is not False else None
            recalled = self._recalled(part, state, segment_layout, index)
            if not text and index == len(self.decoder.blocks) - 1:
                rotary = self.decoder.config.mixers[index].rotary
                slots, layout, recalled = (
                    0,
                    segment_layout.write_layout(),
                    segment_layout.all_recalled(columns, recalled, rotary),
                )
                columns = columns[:, segment_layout.text.stop :]
            elif kept:
                recalled = kept[index]
            columns, following = block(columns, past, layout, recalled)
            layers.append(following)
            if self.config.xl_length:
                seen.append((columns if self.config.xl_layer_above else received)[:, segment_layout.text])
            if memories:
                before = state.associations[index]
                associations.append(association_after(memories[index], columns[:, slots:], before, part.ends))
        return columns, Step(
            columns=columns,
            slots=slots,
            layers=tuple(layers),
            seen=tuple(seen),
            associations=tuple(associations),
            kept=kept_of(self.decoder, self.config, part, segment_layout, layers),
        )

    def _recalled(
        self, part: SegmentPart, state: RecurrentMemoryState, segment_layout: SegmentLayout, layer: int
    ) -> Recalled | None:
        """The hidden states of the segment before that a block reads at the begin of a segment."""
        if part.begins is False or not state.history.shape[2]:
            return None
        rotary = self.decoder.config.mixers[layer].rotary
        return Recalled(
            hidden=state.history[:, layer],
            rotary=None if rotary is None else segment_layout.recalled[rotary],
            learns=self.config.xl_gradient != "none",
        )

    def _associative_memories(self) -> list[AssociativeMemory]:
        return [cast("AssociativeMemory", memory) for memory in self.associations]
