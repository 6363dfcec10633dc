"""One segment as a function of tensors alone, for export to runtimes without Python (ONNX)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.models.rmt.model import RecurrentMemoryTransformer
from retentive.models.rmt.segment_layout import Past, SegmentLayoutBuilder
from retentive.models.rmt.segment_parts import SegmentPart
from retentive.shapes import Logits, Memory, Tokens

History = Float[Tensor, "batch layers xl_length hidden"]


class SegmentStep(nn.Module):
    """``(tokens, memory[, history])`` in, ``(logits, memory[, history])`` out: a whole segment of any length.

    No argument is optional: the first step takes the tensors of `first_inputs`. The history always has ``xl_length``
    columns; columns of zeros are not read.
    """

    def __init__(self, model: RecurrentMemoryTransformer) -> None:
        """Wrap a model, in eval mode.

        Raises:
            ValueError: If its memory is not one of tokens, or its backbone is not one of attention.
        """
        super().__init__()
        if not model.config.decoder.takes_attention_mask:
            raise ValueError(
                f"backbone must have attention alone for a segment step, but is a {model.config.backbone.family}: ONNX "
                "export needs a dynamic length, which chunkwise retention does not have."
            )
        if not model.config.carried_tokens:
            raise ValueError(
                f"a segment step passes memory tokens on, but the model has memory={model.config.memory!r} and "
                f"num_memory_tokens={model.config.num_memory_tokens}."
            )
        self.model = model.eval()

    def first_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """The memory (and the history) that a document begins with."""
        config = self.model.config
        state = self.model.initial_state(batch).detach()
        if not config.xl_length:
            return (state.memory.contiguous(),)
        shape = (batch, config.decoder.num_layers, config.xl_length, config.decoder.embedding.hidden_size)
        return state.memory.contiguous(), state.history.new_zeros(shape)

    def forward(
        self, tokens: Tokens, memory: Memory, history: History | None = None
    ) -> tuple[Logits, Memory] | tuple[Logits, Memory, History]:
        """Read one segment and end it.

        Args:
            tokens: The segment, at most ``segment_length`` tokens.
            memory: What the segment before left.
            history: What is recalled of it, for models that recall.
        """
        model, batch = self.model, tokens.shape[0]
        state = replace(model.initial_state(batch, tokens.device), memory=memory)
        past = Past()
        if history is not None:
            real = (history[:, 0] != 0).any(-1)
            state = replace(state, history=history)
            past = Past(recalled=history.shape[2], recalled_real=real)
        part = SegmentPart(
            tokens=tokens,
            start=torch.zeros(1, dtype=torch.long, device=tokens.device),
            mask=None if history is None else torch.ones_like(tokens, dtype=torch.bool),
            begins=True,
            ends=True,
            starts=False,
            is_first=False,
            continues=False,
        )
        segment_layout = SegmentLayoutBuilder(model.config, memory.dtype).make(part, past, keep=False)
        step = model.run(part, state, segment_layout, model.columns(part, state, segment_layout))
        written = (
            step.columns[:, : segment_layout.reads]
            if model.config.bidirectional
            else step.columns[:, segment_layout.text.stop :]
        )
        logits, kept = model.decoder.logits(step.columns[:, segment_layout.text]), model.memory.keep(written)
        if history is None:
            return logits, kept
        seen = torch.cat((torch.zeros_like(history), torch.stack(step.seen, 1)), 2)
        return logits, kept, seen[:, :, seen.shape[2] - model.config.xl_length :]
