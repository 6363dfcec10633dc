"""A model of Hugging Face and the memory around it, as columns are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from retentive.huggingface.recurrent_memory.block_memories import beside_blocks
from retentive.huggingface.recurrent_memory.segment_cache import read_columns
from retentive.huggingface.recurrent_memory.state import Carried
from retentive.layers.memory.associative import AssociativeMemory
from retentive.layers.memory.tokens import MemoryTokens
from retentive.layers.mixers.key_value_cache import KeyValueState
from retentive.models.rmt.segment_parts import Rows, choose


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What reads columns.

    Attributes:
        backbone: The model, or peft's around it.
        tokens: The memory tokens.
        blocks: Of the model; looked at with associative memories alone.
        associations: The associative memory of each block; empty without.
    """

    backbone: nn.Module
    tokens: MemoryTokens
    blocks: Sequence[nn.Module] = ()
    associations: Sequence[AssociativeMemory] = ()

    @property
    def slots(self) -> int:
        """Columns that a segment which ends has for what it writes."""
        return self.tokens.config.num_tokens

    def first(self, batch: int, device: torch.device, dtype: torch.dtype) -> Carried:
        """What documents begin with; gradients flow into learned memory tokens."""
        return Carried(
            memory=self.tokens.first(batch, device, dtype),
            associations=tuple(memory.initial_state(batch, device, dtype) for memory in self.associations),
        )

    def columns(
        self, text: Float[Tensor, "batch time hidden"], carried: Carried, *, begins: bool, ends: bool
    ) -> Float[Tensor, "batch columns hidden"]:
        """``[read memory][text][write memory]``, of which the memory stands where a segment begins or ends."""
        reads = [carried.memory.to(text.dtype)] if begins else []
        writes = [self.tokens.write_slots(carried.memory, text.dtype)] if ends and self.slots else []
        return torch.cat((*reads, text, *writes), 1)

    def read(
        self,
        columns: Float[Tensor, "batch columns hidden"],
        past: Sequence[KeyValueState],
        carried: Carried,
        *,
        ends: Rows,
        caches: bool,
        mask: Int[Tensor, "batch longer"] | None = None,
        positions: Int[Tensor, "batch columns"] | None = None,
    ) -> tuple[Float[Tensor, "batch columns vocab"], Carried, tuple[KeyValueState, ...]]:
        """Logits of columns, what is carried after them, and what is cached of them; see `read_columns`.

        Args:
            columns: After those that are cached.
            past: What is cached.
            carried: What their segments read.
            ends: Rows whose segment ends with the last columns, the write slots.
            caches: Whether what is computed for them is cached.
            mask: 0 at cached and new columns that are not there.
            positions: Of the new columns, where rows differ.
        """
        slots = 0 if ends is False else self.slots
        writes_tokens = slots > 0 and self.tokens.config.carried
        with beside_blocks(self.blocks, self.associations, carried.associations, slots=slots, ends=ends) as after:
            output, layers = read_columns(
                self.backbone,
                columns,
                past,
                caches=caches,
                hidden_states=writes_tokens,
                mask=mask,
                positions=positions,
            )
        memory = carried.memory
        if writes_tokens:
            written = output.hidden_states[-1][:, columns.shape[1] - slots :]
            memory = choose(ends, self.tokens(written), memory)
        return output.logits, Carried(memory=memory, associations=tuple(after)), layers
