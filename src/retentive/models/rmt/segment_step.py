"""One segment as a function of tensors alone, for export to runtimes without Python (ONNX)."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from retentive.models.rmt.model import RecurrentMemoryTransformer
from retentive.models.rmt.segment_layout import Past, SegmentLayoutBuilder
from retentive.models.rmt.segment_parts import SegmentPart
from retentive.shapes import Memory, Tokens


class SegmentStep(nn.Module):
    """``(tokens, *carried)`` in, ``(logits, *carried)`` out: a whole segment of any length.

    No argument is optional: the first step takes the tensors of `first_inputs`, each later one those that the step
    before returned. Their names are `carried_names`:

    - ``memory``: the memory tokens.
    - ``history``, ``history_real``: for models with ``xl_length``, the recalled hidden states, always ``xl_length``
      columns, and which of them are there.
    - ``reads_memory``: for models with ``read_first=False``, whether the segment reads its memory: not the first of a
      document.
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

    @property
    def carried_names(self) -> tuple[str, ...]:
        """Names of what goes from step to step, in order."""
        recalled = ("history", "history_real") if self.model.config.xl_length else ()
        return ("memory", *recalled, *(() if self.model.config.read_first else ("reads_memory",)))

    def first_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """What a document begins with."""
        config, state = self.model.config, self.model.initial_state(batch).detach()
        shape = (batch, config.decoder.num_layers, config.xl_length, config.decoder.embedding.hidden_size)
        flags = torch.zeros(batch, config.xl_length + 1, dtype=torch.bool, device=state.memory.device)
        found = {
            "memory": state.memory.contiguous(),
            "history": state.history.new_zeros(shape),
            "history_real": flags[:, 1:].clone(),
            "reads_memory": flags[:, 0].clone(),
        }
        return tuple(found[name] for name in self.carried_names)

    def forward(self, tokens: Tokens, memory: Memory, *rest: Tensor) -> tuple[Tensor, ...]:
        """Read one segment and end it.

        Args:
            tokens: The segment, at most ``segment_length`` tokens.
            memory: What the segment before left.
            rest: The others of `carried_names`.

        Returns:
            The logits, and what the next step takes.

        Raises:
            ValueError: If another number of tensors is given.
        """
        names = self.carried_names
        if len(rest) + 1 != len(names):
            raise ValueError(f"a step of this model takes tokens, {', '.join(names)}, but {len(rest) + 2} were given.")
        model, carried = self.model, dict(zip(names[1:], rest, strict=True))
        state, past = replace(model.initial_state(tokens.shape[0], tokens.device), memory=memory), Past()
        history, reads = carried.get("history"), carried.get("reads_memory")
        if history is not None:
            state = replace(state, history=history)
            past = Past(recalled=history.shape[2], recalled_real=carried["history_real"])
        part = SegmentPart(
            tokens=tokens,
            start=torch.zeros(1, dtype=torch.long, device=tokens.device),
            mask=torch.ones_like(tokens, dtype=torch.bool) if rest else None,
            begins=True,
            ends=True,
            starts=False,
            is_first=False if reads is None else ~reads,
            continues=False,
        )
        layout = SegmentLayoutBuilder(model.config, model.decoder.rotary, memory.dtype).make(part, past, keep=False)
        step = model.run(part, state, layout, model.columns(part, state, layout))
        written = step.columns[:, : layout.reads] if model.config.bidirectional else step.columns[:, layout.text.stop :]
        following = {"memory": model.memory(written)}
        if history is not None:
            length = model.config.xl_length
            seen = torch.cat((torch.zeros_like(history), torch.stack(step.seen, 1)), 2)
            real = torch.cat((torch.zeros_like(carried["history_real"]), torch.ones_like(tokens, dtype=torch.bool)), 1)
            following["history"] = seen[:, :, seen.shape[2] - length :]
            following["history_real"] = real[:, real.shape[1] - length :]
        if reads is not None:
            following["reads_memory"] = torch.ones_like(reads)
        return model.decoder.logits(step.columns[:, layout.text]), *(following[name] for name in names)
