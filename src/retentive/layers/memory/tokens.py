"""The tokens that a recurrent memory is made of (Bulatov et al. 2022, arXiv:2207.06881)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_kind, check_types
from retentive.ops.precision import state_dtype
from retentive.shapes import Hidden, Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTokensConfig:
    """Shape of the memory tokens.

    Attributes:
        hidden_size: Width of the residual stream.
        num_tokens: Memory tokens.
        carried: Whether the written tokens are read by the next segment; else they only feed an associative memory.
        learned: Whether the memory that documents begin with is learned; else it is 0, for models that never read it.
        write_start: The vectors in the write slots before the segment is read: those of the current ``memory``, or
            ``learned`` ones.
        write_gradient: Whether gradients flow from the write slots into the memory that they start from.
        code: ``continuous`` carries what was written as it is, ``sign`` only its signs.
        flips: Share of the signs that are flipped at random in training.
        noise: Standard deviation of the Gaussian noise that is added to a continuous memory in training, as a share of
            the memory's root mean square.
    """

    hidden_size: int
    num_tokens: int
    carried: bool = True
    learned: bool = True
    write_start: Literal["memory", "learned"] = "memory"
    write_gradient: bool = True
    code: Literal["continuous", "sign"] = "continuous"
    flips: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.num_tokens < 0:
            raise ValueError(f"num_memory_tokens must be at least 0, but is {self.num_tokens}.")
        if self.write_start not in ("memory", "learned"):
            raise ValueError(f"write_start must be 'memory' or 'learned', but is {self.write_start!r}.")
        if self.write_start == "learned" and not self.write_gradient:
            raise ValueError(
                "write_gradient=False means nothing with write_start='learned', where no memory reaches the write "
                "slots; leave it out."
            )
        if self.code not in ("continuous", "sign"):
            raise ValueError(f"memory_code must be 'continuous' or 'sign', but is {self.code!r}.")
        if not 0 <= self.flips < 0.5:
            raise ValueError(f"memory_flips must be at least 0 and below 0.5, but is {self.flips}.")
        if self.flips and self.code != "sign":
            raise ValueError(f"memory_flips turn signs, so they need memory_code='sign', but it is {self.code!r}.")
        if self.noise < 0:
            raise ValueError(f"memory_noise must be at least 0, but is {self.noise}.")
        if self.noise and self.code != "continuous":
            raise ValueError(
                f"memory_noise needs memory_code='continuous', but it is {self.code!r}; memory_flips are its noise."
            )

    @property
    def carried_tokens(self) -> int:
        """Tokens that pass from segment to segment."""
        return self.num_tokens if self.carried else 0


class MemoryTokens(nn.Module):
    """The initial memory, the write slots' initial vectors, and the code in which memory is carried."""

    def __init__(self, config: MemoryTokensConfig) -> None:
        """Make the learned tokens, as large as embeddings."""
        check_kind("config", config, MemoryTokensConfig)
        super().__init__()
        self.config = config
        shape = (config.num_tokens, config.hidden_size)
        self.initial = self.slots = None
        if config.num_tokens and config.carried and config.learned:
            self.initial = nn.Parameter(torch.empty(shape))
        if config.num_tokens and config.write_start == "learned":
            self.slots = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the learned tokens anew."""
        for learned in (self.initial, self.slots):
            if learned is not None:
                nn.init.normal_(learned)
                learned.mul_(self.config.hidden_size**-0.5)

    def first(self, batch: int, device: torch.device | None, dtype: torch.dtype) -> Memory:
        """The memory with which documents begin, float32 or wider; gradients flow into its learned tokens.

        Args:
            batch: Rows.
            device: Where it is made.
            dtype: Of the model.
        """
        if self.initial is None:
            shape = (batch, self.config.carried_tokens, self.config.hidden_size)
            return torch.zeros(shape, device=device, dtype=state_dtype(dtype))
        # A copy: a state shares no memory with the weights, which the next step of an optimizer changes.
        return self.initial.to(device, state_dtype(dtype)).repeat(batch, 1, 1)

    def write_slots(self, memory: Memory, dtype: torch.dtype) -> Hidden:
        """The vectors in the write slots before the segment is read."""
        if self.slots is not None:
            return self.slots.to(dtype).expand(memory.shape[0], -1, -1)
        return (memory if self.config.write_gradient else memory.detach()).to(dtype)

    def forward(self, written: Memory) -> Float[Tensor, "batch kept hidden"]:
        """The memory that the write slots' output becomes, float32 or wider; empty where none is carried."""
        # A clone: a view would keep the hidden states of the whole segment in memory.
        memory = written.clone().to(state_dtype(written.dtype))
        if not self.config.carried:
            return memory[:, :0]
        if self.config.code == "sign":
            return self._signs(memory)
        if self.config.noise and self.training:
            scale = self.config.noise * memory.detach().pow(2).mean(-1, keepdim=True).sqrt()
            return memory + scale * torch.randn_like(memory)
        return memory

    def _signs(self, memory: Tensor) -> Tensor:
        """1 or -1; the gradient is that of the hyperbolic tangent (straight through)."""
        soft = memory.tanh()
        signs = torch.where(memory < 0, -1.0, 1.0).to(memory.dtype)
        if self.config.flips and self.training:
            flipped = torch.rand_like(memory) < self.config.flips
            soft, signs = torch.where(flipped, -soft, soft), torch.where(flipped, -signs, signs)
        return soft + (signs - soft).detach()
