"""Recurrent memory around any causal language model of Hugging Face (arXiv:2207.06881, 2304.11062, 2407.04841).

The model reads a text segment by segment, each as ``[read memory][segment][write memory]`` through ``inputs_embeds``;
what it makes of the write memory is the next segment's read memory. With an associative memory there is no read memory:
each block stores what it makes of the write memory, and tokens of later segments recall it. The memory learns, and of
the model what is not frozen: nothing, LoRA (of peft), or all of it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retentive.config_types import check_kind
from retentive.errors import MismatchError
from retentive.huggingface.recurrent_memory.around import Around
from retentive.huggingface.recurrent_memory.block_memories import blocks_of, check_can_be_hooked
from retentive.huggingface.recurrent_memory.config import HuggingFaceMemoryConfig, check_backbone, check_reach
from retentive.huggingface.recurrent_memory.ragged_rows import RowPart, RowResult, can_be_masked, read_rows
from retentive.huggingface.recurrent_memory.segment_cache import LayerSizes, cached_sizes, empty_layers
from retentive.huggingface.recurrent_memory.state import (
    Carried,
    HuggingFaceMemoryState,
    has_cache,
    row_of,
    side_by_side,
)
from retentive.layers.memory.associative import AssociativeMemory
from retentive.layers.memory.tokens import MemoryTokens
from retentive.layers.mixers.key_value_cache import KeyValueState
from retentive.layers.token_place import PLAIN, StepContext
from retentive.models.base import CalledModel
from retentive.models.calls import ModelCall
from retentive.models.document_starts import moved_starts
from retentive.models.layer_states import check_config
from retentive.models.protocol import ChunkedReading, ModelOutput
from retentive.ops.cross_entropy import IGNORED
from retentive.ops.precision import state_dtype
from retentive.shapes import Tokens
from retentive.state import ModelState

_Document = tuple[bool, Int[Tensor, "_"]]
"""Whether a document begins, and its tokens."""


class HuggingFaceRecurrentMemory(CalledModel):
    """A causal language model of Hugging Face with a recurrent memory: a `LanguageModel`, called like any other.

    Without memory tokens, one segment is read as the bare model reads it. Memory tokens see those before them only, as
    all columns of a causal model do. Rows that stand at different places of their segments, because of padding or
    packed documents, are read together, padded and masked; one by one where a model caches anything but keys and
    values.

    Attributes:
        backbone: The model, or peft's around it.
        memory: The memory tokens.
        associations: The associative memory of each block; empty without.
        config: Of the memory; the backbone has its own.
        recomputes_segments: None: segments are not computed again in the backward pass.
    """

    recomputes_segments: bool | None = None
    longest_text: int | None = None
    """None: positions begin again with every segment."""
    state_is_bounded = True
    """The state is the memory and at most one segment."""
    caches_tokens = False
    """No call needs ``starts`` for what is kept of the unfinished segment."""
    predicts_next_token = True
    """The backbone is causal."""
    chunked_reading: ChunkedReading | None = None
    """No neighbours are read."""

    def __init__(self, backbone: nn.Module, config: HuggingFaceMemoryConfig) -> None:
        """Put a memory around a model, which is changed in place by training unless it is frozen.

        Args:
            backbone: From ``AutoModelForCausalLM``, or ``peft.get_peft_model`` of one. Freeze it with
                ``backbone.requires_grad_(False)`` to train the memory alone; peft freezes all but its own.
            config: Of the memory.

        Raises:
            TypeError: If it is no model of transformers.
            ValueError: If it is no causal model, its adapter puts tokens of its own before a text, a segment and its
                memory are longer than its positions, its attention does not reach over all of them, or an associative
                memory cannot stand beside its blocks.
        """
        super().__init__()
        check_kind("config", config, HuggingFaceMemoryConfig)
        check_backbone(backbone)
        weight = _token_table(backbone)
        longest = getattr(cast("Any", backbone).config, "max_position_embeddings", None)
        columns = self._columns = config.segment_length + config.carried_tokens + config.num_memory_tokens
        if isinstance(longest, int) and longest > 0 and columns > longest:
            raise ValueError(
                f"segment_length and memory tokens around it must be at most the model's {longest} positions, but are "
                f"{columns}; shorten the segment."
            )
        check_reach(cast("Any", backbone).config, columns)
        self.backbone = backbone
        wide = state_dtype(weight.dtype)
        self.memory = MemoryTokens(config.memory_tokens(weight.shape[1])).to(weight.device, wide)
        # As large as this model's own embeddings, whatever they are.
        spread = float(weight.detach().float().std())
        for learned in self.memory.parameters():
            nn.init.normal_(learned, std=spread)
        self.associations = nn.ModuleList()
        associative = config.associative_memory(weight.shape[1])
        if associative is not None:
            check_can_be_hooked(backbone)
            self.associations.extend(AssociativeMemory(associative) for _ in blocks_of(backbone))
            self.associations.to(weight.device, wide)
        self.config = config

    @property
    def device(self) -> torch.device:
        """The device of the token table."""
        return _token_table(self.backbone).device

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return _token_table(self.backbone).shape[0]

    @property
    def products(self) -> nn.Module:
        """The backbone, whose matrix products a step computes."""
        return self.backbone

    def optional_parameters(self) -> Iterable[nn.Parameter]:
        """The memory's parameters: a window within one segment does not write, and may not read."""
        return (*self.memory.parameters(), *self.associations.parameters())

    def check_state(self, state: object) -> None:
        """Validate that a state was made by a model of this config; see `LanguageModel.check_state`."""
        self._check(state)

    def step(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext = PLAIN
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read one token of each row: a call, after what is cached of the unfinished segment."""
        output = self.forward(tokens[:, None], state, logits_to_keep=1)
        assert output.logits is not None
        return output.logits[:, -1], output.state

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> HuggingFaceMemoryState:
        """What ``state=None`` means, as a value. The memory in it carries the gradient of the learned memory."""
        weight = _token_table(self.backbone)
        device = weight.device if device is None else device
        carried = self._around.first(batch_size, device, weight.dtype)
        return HuggingFaceMemoryState(
            layers=self._empty_layers(batch_size, device),
            position=torch.zeros(batch_size, dtype=torch.long, device=device),
            memory=carried.memory,
            associations=carried.associations,
            segment=torch.zeros(batch_size, 0, dtype=torch.long, device=device),
            config=self.config,
        )

    def answer(self, call: ModelCall) -> ModelOutput:
        """Read the tokens of a call segment by segment."""
        before = self.initial_state(call.tokens.shape[0]) if call.state is None else self._check(call.state)
        begins = call.starts is not None and bool(call.starts.any())
        if call.mask is None and not begins and before.real is None:
            return self._output(*self._read(call.tokens, before), call)
        return self._read_rows(call, before)

    def _read(
        self, tokens: Tokens, state: HuggingFaceMemoryState
    ) -> tuple[list[Float[Tensor, "batch _ vocab"]], HuggingFaceMemoryState]:
        """Logits of new tokens by segment, and the state after them, for rows at the same place."""
        place, length = state.segment.shape[1], self.config.segment_length
        text = torch.cat((state.segment, tokens), 1)
        # With gradients the unfinished segment is read again, so that they reach all that it was computed from.
        kept = cast("tuple[KeyValueState, ...]", state.layers)
        past = () if torch.is_grad_enabled() or not has_cache(state) else kept
        cached = place if past else 0
        carried, logits = state.carried, list[Tensor]()
        for number, piece in enumerate(text.split(length, 1)):
            is_last = (number + 1) * length >= text.shape[1]
            new = piece[:, cached:] if number == 0 else piece
            caches = is_last and piece.shape[1] < length and not torch.is_grad_enabled() and bool(self._cached_sizes)
            found, carried, past = self._read_segment(new, carried, past, ends=piece.shape[1] == length, caches=caches)
            logits.append(found[:, place - cached :] if number == 0 else found)
        unfinished = text.shape[1] % length
        empty = self._empty_layers(tokens.shape[0], tokens.device)
        return logits, replace(
            state,
            position=state.position + tokens.shape[1],
            memory=carried.memory,
            associations=carried.associations,
            segment=text[:, text.shape[1] - unfinished :],
            layers=past or empty,
        )

    def _read_segment(
        self,
        tokens: Tokens,
        carried: Carried,
        past: tuple[KeyValueState, ...] = (),
        *,
        ends: bool,
        caches: bool = False,
    ) -> tuple[Tensor, Carried, tuple[KeyValueState, ...]]:
        """Logits of tokens of one segment, what is carried after them if it ends, and what is cached of it.

        Args:
            tokens: From its begin on, or after those that are cached.
            carried: What the segment reads.
            past: What is cached of its memory and tokens.
            ends: Whether it ends with these tokens.
            caches: Whether they are cached.
        """
        text: Tensor = cast("Any", self.backbone).get_input_embeddings()(tokens)
        reads, time = 0 if past else carried.memory.shape[1], tokens.shape[1]
        columns = self._around.columns(text, carried, begins=not past, ends=ends)
        logits, carried, layers = self._around.read(columns, past, carried, ends=ends, caches=caches)
        return logits[:, reads : reads + time], carried, layers

    @property
    def _around(self) -> Around:
        return Around(
            backbone=self.backbone,
            tokens=self.memory,
            blocks=self._blocks,
            associations=cast("list[AssociativeMemory]", list(self.associations)),
        )

    @cached_property
    def _blocks(self) -> list[nn.Module]:
        return blocks_of(self.backbone) if self.associations else []

    @cached_property
    def _cached_sizes(self) -> tuple[LayerSizes, ...]:
        return cached_sizes(self.backbone)

    def _empty_layers(self, batch: int, device: torch.device) -> tuple[KeyValueState, ...]:
        return empty_layers(self._cached_sizes, batch, device, _token_table(self.backbone).dtype)

    def _output(self, pieces: list[Tensor], state: HuggingFaceMemoryState, call: ModelCall) -> ModelOutput:
        loss, labels = None, call.labels
        if labels is not None:
            targets = labels.split([piece.shape[1] for piece in pieces], 1)
            sums = [_sum(piece, target) for piece, target in zip(pieces, targets, strict=True)]
            loss = torch.stack(sums).sum() / (labels != IGNORED).sum().clamp_min(1)
            if torch.is_grad_enabled() and not loss.requires_grad:
                # Around a frozen model, a window that goes on may hold nothing that learns: then its gradient is 0.
                loss = sum((0 * learned.sum() for learned in self.optional_parameters()), loss)
        if call.logits_to_keep == 0:
            return ModelOutput(None, state, loss)
        logits = torch.cat(pieces, 1)
        if call.logits_to_keep is not None:
            logits = logits[:, max(0, logits.shape[1] - call.logits_to_keep) :]
        return ModelOutput(logits, state, loss)

    def _read_rows(self, call: ModelCall, state: HuggingFaceMemoryState) -> ModelOutput:
        """`answer` where rows stand at different places: together, if the model's cache and positions allow it."""
        tokens, mask = call.tokens, call.mask
        batch, time = tokens.shape
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        starts, pending = moved_starts(call.starts, mask)
        begins = torch.zeros_like(real) if starts is None else starts
        columns = [real[row].nonzero()[:, 0] for row in range(batch)]
        documents = [list(_documents(tokens[row, there], begins[row, there])) for row, there in enumerate(columns)]
        before = [row_of(state, row) for row in range(batch)]
        if self._cached_sizes and can_be_masked(self.backbone, self._columns):
            logits, after = self._read_together(before, documents)
        else:
            logits, after = self._read_one_by_one(before, documents)
        for row in [] if pending is None else pending.nonzero()[:, 0].tolist():
            after[row] = self.initial_state(1, tokens.device)
        rows: list[Tensor] = []
        for there, found in zip(columns, logits, strict=True):
            empty = _token_table(self.backbone).new_zeros(time, self.vocab_size)
            rows.append(empty.index_copy(0, there, torch.cat(found).to(empty)) if found else empty)
        return self._output([torch.stack(rows)], side_by_side(after), call)

    def _read_one_by_one(
        self, before: list[HuggingFaceMemoryState], documents: list[list[_Document]]
    ) -> tuple[list[list[Tensor]], list[HuggingFaceMemoryState]]:
        logits: list[list[Tensor]] = []
        after: list[HuggingFaceMemoryState] = []
        for now, row in zip(before, documents, strict=True):
            found = list[Tensor]()
            for fresh, text in row:
                pieces, now = self._read(text[None], self.initial_state(1) if fresh else now)
                found += [piece[0] for piece in pieces]
            logits.append(found)
            after.append(now)
        return logits, after

    def _read_together(
        self, before: list[HuggingFaceMemoryState], documents: list[list[_Document]]
    ) -> tuple[list[list[Tensor]], list[HuggingFaceMemoryState]]:
        length, caches = self.config.segment_length, not torch.is_grad_enabled()
        rows: list[list[RowPart]] = []
        again: list[int] = []
        for state, row in zip(before, documents, strict=True):
            goes_on = bool(row) and not row[0][0] and has_cache(state) and caches
            again.append(0 if not row or row[0][0] or goes_on else state.segment.shape[1])
            parts: list[RowPart] = []
            for fresh, text in row:
                whole = text if fresh else torch.cat((state.segment[0], text))
                for number, piece in enumerate(whole.split(length)):
                    past = cast("tuple[KeyValueState, ...]", state.layers) if goes_on and not parts else ()
                    parts.append(
                        RowPart(
                            tokens=piece[state.segment.shape[1] :] if past else piece,
                            begins=not past,
                            ends=len(piece) == length,
                            starts=fresh and number == 0,
                            past=past,
                        )
                    )
            rows.append(parts)
        found = read_rows(self._around, rows, [state.carried for state in before], caches=caches)
        logits, after = list[list[Tensor]](), list[HuggingFaceMemoryState]()
        for state, row, result, skipped in zip(before, documents, found, again, strict=True):
            pieces = result.logits
            logits.append([pieces[0][skipped:], *pieces[1:]] if skipped else pieces)
            after.append(self._after_row(state, row, result))
        return logits, after

    def _after_row(
        self, state: HuggingFaceMemoryState, row: list[_Document], result: RowResult
    ) -> HuggingFaceMemoryState:
        """The state of a row after its documents."""
        if not row:
            return state
        fresh = any(begins for begins, _ in row)
        last = row[-1][1] if row[-1][0] else torch.cat((state.segment[0], row[-1][1]))
        read = sum(len(text) for _, text in row) if not fresh else len(row[-1][1])
        unfinished = len(last) % self.config.segment_length
        position = torch.full_like(state.position, read) if fresh else state.position + read
        return replace(
            state,
            position=position,
            memory=result.carried.memory,
            associations=result.carried.associations,
            segment=last[None, len(last) - unfinished :],
            layers=result.layers or self._empty_layers(1, state.position.device),
        )

    def _check(self, state: object) -> HuggingFaceMemoryState:
        slots, channels = self.config.carried_tokens, self.memory.config.hidden_size
        if not isinstance(state, HuggingFaceMemoryState) or state.memory.shape[1:] != (slots, channels):
            found = type(state).__name__
            shape = f" of {tuple(state.memory.shape[1:])}" if isinstance(state, HuggingFaceMemoryState) else ""
            raise MismatchError(
                f"state must be of this model, a HuggingFaceMemoryState with {slots} memory tokens of {channels} "
                f"channels, but is a {found}{shape}; take it from this model's output or its initial_state."
            )
        if len(state.layers) != len(self._cached_sizes):
            raise MismatchError(
                f"state must be of this model, which caches {len(self._cached_sizes)} layers, but has "
                f"{len(state.layers)}; take it from this model's output or its initial_state."
            )
        if len(state.associations) != len(self.associations):
            raise MismatchError(
                f"state must be of this model, which has {len(self.associations)} associative memories, but has "
                f"{len(state.associations)}; take it from this model's output or its initial_state."
            )
        check_config(self.config, state)
        return state


def _token_table(backbone: nn.Module) -> Tensor:
    return cast("Any", backbone).get_input_embeddings().weight


def _sum(logits: Tensor, labels: Tensor) -> Float[Tensor, ""]:
    flat = logits.reshape(-1, logits.shape[-1]).float() if logits.dtype.itemsize < 4 else logits.flatten(0, 1)
    return nn.functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum")


def _documents(
    tokens: Int[Tensor, "real"], begins: Bool[Tensor, "real"]
) -> Iterator[tuple[bool, Int[Tensor, "piece"]]]:
    """Pieces of a row, each of one document, and whether it begins there."""
    cuts = [0, *(cut for cut in begins.nonzero()[:, 0].tolist() if cut), len(tokens)]
    for begin, end in pairwise(cuts):
        if end > begin:
            yield bool(begins[begin]), tokens[begin:end]
