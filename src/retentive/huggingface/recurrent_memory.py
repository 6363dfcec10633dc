"""Recurrent memory around any causal language model of Hugging Face (arXiv:2207.06881, 2304.11062).

The model reads a text segment by segment, each as ``[read memory][segment][write memory]`` through ``inputs_embeds``;
what it makes of the write memory is the next segment's read memory. The memory learns, and of the model what is not
frozen: nothing, LoRA (of peft), or all of it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from retentive.config_types import check_kind, check_types
from retentive.errors import MismatchError
from retentive.layers.memory_tokens import MemoryTokens, MemoryTokensConfig
from retentive.layers.token_place import PLAIN, StepContext
from retentive.models.base import CalledModel
from retentive.models.calls import ModelCall
from retentive.models.layer_states import check_config
from retentive.models.protocol import ChunkedReading, ModelOutput
from retentive.ops.cross_entropy import IGNORED
from retentive.shapes import Memory, Tokens
from retentive.state import ModelState, RaggedFields


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceMemoryConfig:
    """How a memory goes around a model.

    Attributes:
        segment_length: Tokens of a segment.
        num_memory_tokens: Memory tokens; 0 has no memory, the baseline that a memory is compared with.
        write_start: What stands in the write slots before the segment has been read: the ``memory`` that it read, or
            tokens that are ``learned``.
        memory_code: ``continuous`` carries what was written as it is; ``sign`` only its signs, which holds over any
            number of segments.
        memory_flips: Share of the signs turned at random in training.
        memory_noise: Noise added to a continuous memory in training, as a share of its root mean square.
    """

    family: ClassVar[str] = "huggingface_memory"

    segment_length: int
    num_memory_tokens: int
    write_start: Literal["memory", "learned"] = "memory"
    memory_code: Literal["continuous", "sign"] = "continuous"
    memory_flips: float = 0.0
    memory_noise: float = 0.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.segment_length < 1:
            raise ValueError(f"segment_length must be at least 1 token, but is {self.segment_length}.")
        _ = self.memory_tokens(1)  # validates its fields

    def memory_tokens(self, hidden_size: int) -> MemoryTokensConfig:
        """The memory tokens of a model of this width."""
        return MemoryTokensConfig(
            hidden_size=hidden_size,
            num_tokens=self.num_memory_tokens,
            write_start=self.write_start,
            code=self.memory_code,
            flips=self.memory_flips,
            noise=self.memory_noise,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceMemoryState(ModelState):
    """The memory, and the tokens of the segment that is not finished; these are read again by the next call.

    Attributes:
        memory: What the unfinished segment reads.
        segment: Its tokens, at the end of the row.
        real: Which of them are there; None where rows have equally many.
    """

    ragged: ClassVar[RaggedFields] = {"real": {"segment": 1}}

    memory: Memory
    segment: Int[Tensor, "batch unfinished"]
    real: Bool[Tensor, "batch unfinished"] | None = None


class HuggingFaceRecurrentMemory(CalledModel):
    """A causal language model of Hugging Face with memory tokens: a `LanguageModel`, called and trained like any other.

    Without memory tokens, one segment is read as the bare model reads it. Memory tokens see those before them only, as
    all columns of a causal model do. Rows that stand at different places of their segments, because of padding or
    packed documents, are read one by one: exact, and slower.

    Attributes:
        backbone: The model, or peft's around it.
        memory: The memory tokens.
        config: Of the memory; the backbone has its own.
        recomputes_segments: None: segments are not computed again in the backward pass.
    """

    recomputes_segments: bool | None = None
    longest_text: int | None = None
    """None: positions begin again with every segment."""
    state_is_bounded = True
    """The state is the memory and at most one segment."""
    caches_tokens = False
    """The unfinished segment is read again, so no keys and values are kept."""
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
            ValueError: If a segment and its memory are longer than the model's positions, or its attention does not
                reach over all of them.
        """
        super().__init__()
        check_kind("config", config, HuggingFaceMemoryConfig)
        weight = _token_table(backbone)
        longest = getattr(cast("Any", backbone).config, "max_position_embeddings", None)
        columns = config.segment_length + 2 * config.num_memory_tokens
        if isinstance(longest, int) and longest > 0 and columns > longest:
            raise ValueError(
                f"segment_length and twice num_memory_tokens must be at most the model's {longest} positions, but are "
                f"{columns}; shorten the segment."
            )
        _check_reach(cast("Any", backbone).config, columns)
        self.backbone = backbone
        self.memory = MemoryTokens(config.memory_tokens(weight.shape[1])).to(weight.device)
        # As large as this model's own embeddings, whatever they are.
        spread = float(weight.detach().float().std())
        for learned in self.memory.parameters():
            nn.init.normal_(learned, std=spread)
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
        return self.memory.parameters()

    def check_state(self, state: object) -> None:
        """Validate that a state was made by a model of this config; see `LanguageModel.check_state`."""
        self._check(state)

    def step(
        self, tokens: Int[Tensor, "batch"], state: ModelState, context: StepContext = PLAIN
    ) -> tuple[Float[Tensor, "batch vocab"], ModelState]:
        """Read one token of each row: a call, for the unfinished segment is read again."""
        output = self.forward(tokens[:, None], state, logits_to_keep=1)
        assert output.logits is not None
        return output.logits[:, -1], output.state

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> HuggingFaceMemoryState:
        """What ``state=None`` means, as a value. The memory in it carries the gradient of the learned memory."""
        weight = _token_table(self.backbone)
        device = weight.device if device is None else device
        return HuggingFaceMemoryState(
            layers=(),
            position=torch.zeros(batch_size, dtype=torch.long, device=device),
            memory=self.memory.first(batch_size, device, weight.dtype),
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
    ) -> tuple[list[Float[Tensor, "batch piece vocab"]], HuggingFaceMemoryState]:
        """Logits of new tokens by segment, and the state after them, for rows at the same place."""
        again, length = state.segment.shape[1], self.config.segment_length
        memory, logits, rest = state.memory, list[Tensor](), state.segment[:, :0]
        for number, piece in enumerate(torch.cat((state.segment, tokens), 1).split(length, 1)):
            ends = piece.shape[1] == length
            found, memory = self._read_segment(piece, memory, ends=ends)
            logits.append(found[:, again:] if number == 0 else found)
            rest = piece[:, :0] if ends else piece
        position = state.position + tokens.shape[1]
        return logits, replace(state, position=position, memory=memory, segment=rest)

    def _read_segment(self, tokens: Tokens, memory: Memory, *, ends: bool) -> tuple[Tensor, Memory]:
        """Logits of a segment (or of its begin), and the memory after it if it ends."""
        model = cast("Any", self.backbone)
        text: Tensor = model.get_input_embeddings()(tokens)
        slots, time = memory.shape[1], tokens.shape[1]
        parts = [text]
        if slots:
            parts.insert(0, memory.to(text.dtype))
        writes = ends and slots > 0
        if writes:
            parts.append(self.memory.write_slots(memory, text.dtype))
        output = model(
            inputs_embeds=torch.cat(parts, 1) if len(parts) > 1 else text, use_cache=False, output_hidden_states=writes
        )
        if writes:
            memory = self.memory.keep(output.hidden_states[-1][:, slots + time :])
        return output.logits[:, slots : slots + time], memory

    def _output(self, pieces: list[Tensor], state: HuggingFaceMemoryState, call: ModelCall) -> ModelOutput:
        loss, labels = None, call.labels
        if labels is not None:
            targets = labels.split([piece.shape[1] for piece in pieces], 1)
            sums = [_sum(piece, target) for piece, target in zip(pieces, targets, strict=True)]
            loss = torch.stack(sums).sum() / (labels != IGNORED).sum().clamp_min(1)
            if torch.is_grad_enabled() and not loss.requires_grad:
                # Around a frozen model, a window that goes on may hold nothing that learns: then its gradient is 0.
                loss = sum((0 * learned.sum() for learned in self.memory.parameters()), loss)
        if call.logits_to_keep == 0:
            return ModelOutput(None, state, loss)
        logits = torch.cat(pieces, 1)
        if call.logits_to_keep is not None:
            logits = logits[:, max(0, logits.shape[1] - call.logits_to_keep) :]
        return ModelOutput(logits, state, loss)

    def _read_rows(self, call: ModelCall, state: HuggingFaceMemoryState) -> ModelOutput:
        """`answer` row by row and document by document."""
        tokens, mask, starts = call.tokens, call.mask, call.starts
        batch, time = tokens.shape
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        begins = torch.zeros_like(real) if starts is None else starts & real
        rows: list[Tensor] = []
        states: list[HuggingFaceMemoryState] = []
        for row in range(batch):
            now, found = _row(state, row), list[Tensor]()
            columns = real[row].nonzero()[:, 0]
            for fresh, piece in _documents(tokens[row, columns], begins[row, columns]):
                pieces, now = self._read(piece[None], self.initial_state(1) if fresh else now)
                found += [logits[0] for logits in pieces]
            empty = _token_table(self.backbone).new_zeros(time, self.vocab_size)
            rows.append(empty.index_copy(0, columns, torch.cat(found).to(empty)) if found else empty)
            states.append(now)
        return self._output([torch.stack(rows)], _side_by_side(states), call)

    def _check(self, state: object) -> HuggingFaceMemoryState:
        slots, channels = self.config.num_memory_tokens, self.memory.config.hidden_size
        if not isinstance(state, HuggingFaceMemoryState) or state.memory.shape[1:] != (slots, channels):
            found = type(state).__name__
            shape = f" of {tuple(state.memory.shape[1:])}" if isinstance(state, HuggingFaceMemoryState) else ""
            raise MismatchError(
                f"state must be of this model, a HuggingFaceMemoryState with {slots} memory tokens of {channels} "
                f"channels, but is a {found}{shape}; take it from this model's output or its initial_state."
            )
        check_config(self.config, state)
        return state


def _token_table(backbone: nn.Module) -> Tensor:
    return cast("Any", backbone).get_input_embeddings().weight


def _check_reach(config: Any, columns: int) -> None:
    """Validate that attention reaches over a whole segment, so that write slots see all of it and the memory.

    Raises:
        ValueError: If it ends at a window or a chunk before.
    """
    config = config.get_text_config()
    windows = {name: getattr(config, name, None) for name in _WINDOWS}
    if not getattr(config, "use_sliding_window", True):
        windows.pop("sliding_window")
    if "local" not in (getattr(config, "attention_layers", None) or ()):
        windows.pop("window_size")
    kinds = [str(kind) for kind in getattr(config, "layer_types", None) or ()]
    if kinds and not any("sliding" in kind or "chunked" in kind for kind in kinds):
        windows = {}  # the layers say what they are, and none has a window
    found = [f"{name}={width}" for name, width in windows.items() if isinstance(width, int) and width < columns]
    if found:
        raise ValueError(
            f"backbone must have attention over a whole segment and its memory, {columns} columns, but this "
            f"{config.model_type} has {', '.join(found)}: its memory would not see all of a segment. Shorten "
            "segment_length, or load the model without a window."
        )


_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
"""Names in Hugging Face's configs of how far attention reaches; ``window_size`` is GPT-Neo's, for its local layers."""


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


def _row(state: HuggingFaceMemoryState, row: int) -> HuggingFaceMemoryState:
    one = slice(row, row + 1)
    segment = state.segment[one]
    return replace(
        state,
        position=state.position[one],
        memory=state.memory[one],
        segment=segment if state.real is None else segment[:, state.real[row]],
        real=None,
    )


def _side_by_side(states: list[HuggingFaceMemoryState]) -> HuggingFaceMemoryState:
    longest = max(state.segment.shape[1] for state in states)
    lengths = [state.segment.shape[1] for state in states]
    segment = [nn.functional.pad(state.segment, (longest - state.segment.shape[1], 0)) for state in states]
    places = torch.arange(longest, device=states[0].segment.device)
    even = len(set(lengths)) == 1
    return replace(
        states[0],
        position=torch.cat([state.position for state in states]),
        memory=torch.cat([state.memory for state in states]),
        segment=torch.cat(segment),
        real=None if even else torch.stack([places >= longest - length for length in lengths]),
    )
