"""A recurrent memory for DNA whose prediction does not depend on which strand was written down.

Two streams with the same weights read the sequence, one from each end, each on its own strand; what one carries into a
segment from the left, the other carries into it from the right. Then every segment is read once more with both, so that
a base is predicted from all of the sequence. The two predictions of a base are merged symmetrically.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.config_types import check_count, check_kind
from retentive.models.rmt.classifier import RecurrentMemoryHead, RecurrentMemoryHeadConfig
from retentive.models.rmt.config import RecurrentMemoryConfig
from retentive.models.rmt.segment_layout import Past, SegmentLayoutBuilder
from retentive.models.rmt.segment_parts import SegmentPart
from retentive.nucleotides.complement import Complement, check_complement, reverse_complement, reverse_complement_logits
from retentive.ops.cross_entropy import IGNORED
from retentive.shapes import Hidden, Logits, Memory, TokenFlags, Tokens
from retentive.state import ModelState


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverseComplementConfig(RecurrentMemoryHeadConfig):
    """A `ReverseComplementTransformer`, as it is saved.

    Attributes:
        backbone: A bidirectional recurrent memory.
        complement: Of every token id.
    """

    family: ClassVar[str] = "reverse_complement"

    complement: Complement


@dataclass(frozen=True, slots=True)
class StrandOutput:
    """What one call returns.

    Attributes:
        logits: Of each base; for the other strand they are the same, from the other end and of the complements.
        pooled: One vector for each sequence, the same for both strands; for heads that tell something of the whole.
        state: Says how many bases were read; nothing goes on from it, for sequences are read as wholes.
        loss: Mean over labels that are not -100, in nats; None without labels.
    """

    logits: Logits
    pooled: Float[Tensor, "batch hidden"]
    state: ModelState
    loss: Float[Tensor, ""] | None = None


def symmetric_segments(length: int, segment_length: int) -> tuple[int, ...]:
    """Sizes of segments that are the same from either end, about equal, and at most ``segment_length``.

    Raises:
        ValueError: If a number is below 1.
    """
    check_count("length", length)
    check_count("segment_length", segment_length)
    count = -(-length // segment_length)
    # An even number of segments that mirror one another cannot have an odd sum.
    count += count % 2 == 0 and length % 2 == 1
    size, longer = divmod(length, count)
    sizes = [size] * count
    if count % 2:
        sizes[count // 2] += longer % 2
    for number in range(longer // 2):
        sizes[number] += 1
        sizes[-1 - number] += 1
    return tuple(sizes)


class ReverseComplementTransformer(RecurrentMemoryHead):
    """An encoder with recurrent memory that is equivariant under reverse complement, whatever its weights.

    ``model(reverse_complement(x)).logits == reverse_complement_logits(model(x).logits)``, up to rounding.
    """

    def __init__(self, config: RecurrentMemoryConfig, complement: Complement) -> None:
        """Make the model.

        Args:
            config: A bidirectional recurrent memory that recalls nothing but its memory tokens.
            complement: Of every token id, such as `NucleotideTokenizer.complement`.

        Raises:
            ValueError: If the config is of another kind, or ids have no complement.
        """
        check_kind("config", config, RecurrentMemoryConfig)
        if not config.bidirectional or not config.num_memory_tokens:
            raise ValueError(
                "config must have bidirectional=True and memory tokens, for a base is predicted from both of its "
                f"sides, but has bidirectional={config.bidirectional} and num_memory_tokens={config.num_memory_tokens}."
            )
        if config.xl_length or config.token_shift:
            raise ValueError(
                "config must have xl_length=0 and token_shift=False, which read from one side alone, but has "
                f"{config.xl_length} and {config.token_shift}."
            )
        check_complement(complement, config.vocab_size)
        super().__init__(ReverseComplementConfig(backbone=config, complement=complement), config)
        self.complement = complement
        hidden_size = config.decoder.embedding.hidden_size
        self.other_side = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - what is read is a whole
        self,
        tokens: Tokens,
        state: ModelState | None = None,
        labels: Int[Tensor, "batch labelled"] | None = None,
        *,
        mask: TokenFlags = None,
        starts: TokenFlags = None,
        logits_to_keep: int | None = None,
    ) -> StrandOutput:
        """Predict every base of whole sequences.

        Args:
            tokens: Token ids; all rows are of one length, which need not be a multiple of the segment.
            state: Must be None.
            labels: The id that each base should be predicted as, -100 where none counts.
            mask: Must be None.
            starts: Must be None.
            logits_to_keep: Changes nothing: all logits are needed for both strands.

        Raises:
            ValueError: If labels are not of the tokens' shape, or a row is not one whole sequence.
        """
        for name, given in (("state", state), ("mask", mask), ("starts", starts)):
            if given is not None:
                raise ValueError(
                    f"{name} must be None: a row is one whole sequence, for it is read from both of its ends; sort "
                    "sequences by their lengths into batches."
                )
        if labels is not None and labels.shape != tokens.shape:
            raise ValueError(
                f"labels must have the shape of tokens, {tuple(tokens.shape)}, but have {tuple(labels.shape)}."
            )
        config = self.check_backbone().config
        sizes = symmetric_segments(tokens.shape[1], config.segment_length)
        both = torch.cat((tokens, reverse_complement(tokens, self.complement)))
        segments = both.split(sizes, 1)
        hidden = torch.cat(self._read(segments, self._entering(segments)), 1)
        here, there = self.backbone_model.decoder.logits(hidden).chunk(2)
        logits = (here + reverse_complement_logits(there, self.complement)) / 2
        loss = None
        if labels is not None:
            total = nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            loss = total / (labels != IGNORED).sum().clamp_min(1)
        first, second = hidden.mean(1).chunk(2)
        read = ModelState(layers=(), position=torch.full_like(tokens[:, 0], tokens.shape[1]), config=self.config)
        return StrandOutput(logits, (first + second) / 2, read, loss)

    def _entering(self, segments: tuple[Tensor, ...]) -> list[Memory]:
        """The memory with which each stream comes to each of its segments; streams are the halves of the batch."""
        embedding = self.backbone_model.decoder.embedding.tokens.weight
        memory = self.backbone_model.memory.first(segments[0].shape[0], embedding.device, embedding.dtype)
        entering = [memory]
        for segment in segments[:-1]:
            memory = self._segment(segment, memory)[1]
            entering.append(memory)
        return entering

    def _read(self, segments: tuple[Tensor, ...], entering: list[Memory]) -> list[Hidden]:
        """Read each segment again with the memories from both sides; segments of one size in one batch."""
        hidden: list[Hidden] = [entering[0]] * len(segments)
        for size in sorted({segment.shape[1] for segment in segments}):
            chosen = [number for number, segment in enumerate(segments) if segment.shape[1] == size]
            memory = torch.cat([entering[number] + self._from_other_side(entering, number) for number in chosen])
            read = self._segment(torch.cat([segments[number] for number in chosen]), memory)[0]
            for number, rows in zip(chosen, read.chunk(len(chosen)), strict=True):
                hidden[number] = rows
        return hidden

    def _from_other_side(self, entering: list[Memory], number: int) -> Memory:
        """What the stream of the other strand carries into the same bases; it counts segments from the other end."""
        here, there = entering[len(entering) - 1 - number].chunk(2)
        memory = torch.cat((there, here))
        return self.other_side(memory.to(self.other_side.weight.dtype)).to(memory.dtype)

    def _segment(self, tokens: Tokens, memory: Memory) -> tuple[Hidden, Memory]:
        """Read one segment, of any size, to its end."""
        model = self.backbone_model
        state = replace(model.initial_state(tokens.shape[0], tokens.device), memory=memory)
        part = SegmentPart(
            tokens=tokens,
            start=torch.zeros(1, dtype=torch.long, device=tokens.device),
            begins=True,
            ends=True,
            starts=False,
            is_first=False,
            continues=False,
        )
        dtype = model.decoder.embedding.tokens.weight.dtype
        segment_layout = SegmentLayoutBuilder(model.config, model.decoder.rotary, dtype).make(part, Past(), keep=False)
        columns = model.run(part, state, segment_layout, model.columns(part, state, segment_layout)).columns
        return columns[:, segment_layout.text], model.memory(columns[:, : segment_layout.reads])


def reverse_complement_of(config: ReverseComplementConfig) -> ReverseComplementTransformer:
    """Make the model that a config describes."""
    return ReverseComplementTransformer(config.backbone, config.complement)


def average_over_strands(predict: Callable[[Tokens], Logits], tokens: Tokens, complement: Complement) -> Logits:
    """The prediction of any model for each base, averaged with that for the other strand (post-hoc conjoining).

    It is equivariant too, at twice the work, but the model reads one strand at a time and was not trained for it.

    Args:
        predict: Gives the logits of each base, such as an encoder's.
        tokens: What is predicted.
        complement: Of every token id.
    """
    there = predict(reverse_complement(tokens, complement))
    return (predict(tokens) + reverse_complement_logits(there, complement)) / 2
