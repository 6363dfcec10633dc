"""Runs the programs of `retentive.ops.kernels.programs`: what they need is computed here, and memory is made."""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from retentive.ops.precision import state_dtype
from retentive.ops.retention.chunks import ChunkStates, decay_gradient
from retentive.shapes import Queries, RetentionMatrix, Values

LogDecayChunks = Float[Tensor, "rows heads chunks size"]
"""``log(gamma)`` of each token: 0 at what fills up the last chunk, ``-inf`` at starts. Rows that agree share one."""


@dataclass(frozen=True, slots=True)
class KernelDecays:
    """What the programs read of the decays, each with a number for each token of each chunk."""

    query: LogDecayChunks
    """Of the state before the chunk at a query."""

    key: LogDecayChunks
    """Of a key at the end of its chunk."""

    chunk: Float[Tensor, "rows heads chunks"]
    """Of the state before the chunk at its end."""

    clock: LogDecayChunks
    """The sum of ``log(gamma)`` within the chunk, rounded."""

    fine: LogDecayChunks
    """What the rounding has left."""


def kernel_decays(log_decay: LogDecayChunks, dtype: torch.dtype) -> KernelDecays:
    """Sum in float64, so that a weak decay is exact beside a strong one; in two parts, for GPUs that are slow there."""
    # A decay that is 0 in this dtype stays 0, and -inf becomes a number that can be subtracted.
    lowest = 1.25 * math.log(torch.finfo(dtype).tiny)
    clock = log_decay.to(torch.float64).clamp_min(lowest).cumsum(3).contiguous()
    last, coarse = clock[..., -1:], clock.to(dtype)
    return KernelDecays(
        query=clock.exp().to(dtype),
        key=(last - clock).exp().to(dtype),
        chunk=last.squeeze(3).exp().to(dtype).contiguous(),
        clock=coarse,
        fine=(clock - coarse).to(dtype),
    )


class Launch:
    """The programs over the inputs of one call."""

    def __init__(self, query: Queries, key: Queries, value: Values, log_decay: LogDecayChunks) -> None:
        """Take the inputs; query, key and value in one dtype."""
        from retentive.ops.kernels import programs  # imports Triton

        self._programs: Any = programs
        self.query, self.key, self.value = query.contiguous(), key.contiguous(), value.contiguous()
        self._pairs = query.shape[0] * query.shape[1]
        self._chunks = log_decay.shape[2]
        self._wide = state_dtype(query.dtype)
        self._decays = kernel_decays(log_decay, self._wide)
        product, precision = products_of(query)
        # Tiles of equal size in memory: what a program holds fits the least of the GPUs.
        block = 128 // product.itemsize
        self._blocks = _block(key.shape[3], block), _block(value.shape[3], block)
        self._constants = {
            "DECAYS": log_decay.shape[0] * log_decay.shape[1],
            "TIME": query.shape[2],
            "CHUNKS": self._chunks,
            "SIZE": log_decay.shape[3],
            "KEYS": key.shape[3],
            "VALUES": value.shape[3],
            "BLOCK_KEYS": self._blocks[0],
            "BLOCK_VALUES": self._blocks[1],
            "PRODUCT": programs.PRODUCTS[product],
            "PRECISION": precision,
        }

    def outputs(self, state: RetentionMatrix | None) -> tuple[Values, RetentionMatrix, ChunkStates]:
        """Compute the outputs, the last state, and the state that each chunk meets."""
        states, after = self._carry(self.key, self.value, self._decays.key, state)
        output = torch.empty_like(self.value)
        decays = self._decays
        arguments = self.query, self.key, self.value, states, decays.query, decays.clock, decays.fine, output
        self._run(self._programs.read_outputs, self._of_values(), *arguments)
        return output, after, states

    def gradients(
        self, states: ChunkStates, d_output: Values | None, d_after: RetentionMatrix | None, *, of_decay: bool
    ) -> tuple[Queries, Queries, Values, RetentionMatrix, LogDecayChunks | None]:
        """Compute the gradients of query, key, value, state and, if wanted, ``log_decay``."""
        query, key, value, decays = self.query, self.key, self.value, self._decays
        d_output = torch.zeros_like(value) if d_output is None else d_output.contiguous()
        d_states, d_state = self._carry(query, d_output, decays.query, d_after, backwards=True)
        d_query, d_key, d_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        arguments = query, key, d_output, d_states, decays.key, decays.clock, decays.fine, d_value
        self._run(self._programs.value_gradients, self._of_values(), *arguments)
        grid = self._of_keys()
        read, given, written = query.new_empty((3, grid[1], *self._tokens()), dtype=self._wide)
        arguments = query, key, value, d_output, states, decays.query, decays.clock, decays.fine, d_query, read
        self._run(self._programs.query_gradients, grid, *arguments, OF_DECAY=of_decay)
        arguments = query, key, value, d_output, d_states, decays.key, decays.clock, decays.fine, d_key, given, written
        self._run(self._programs.key_gradients, grid, *arguments, OF_DECAY=of_decay)
        if not of_decay:
            return d_query, d_key, d_value, d_state, None
        carried = (d_states * states).sum((3, 4)) * decays.chunk
        d_log_decay = decay_gradient(read.sum(0) - given.sum(0), written.sum(0), carried.unsqueeze(3))
        return d_query, d_key, d_value, d_state, d_log_decay

    def _carry(
        self,
        keys: Queries,
        values: Values,
        token_decay: LogDecayChunks,
        first: RetentionMatrix | None,
        *,
        backwards: bool = False,
    ) -> tuple[ChunkStates, RetentionMatrix]:
        batch, heads, _, key_dim = keys.shape
        states = keys.new_empty((batch, heads, self._chunks, key_dim, values.shape[3]), dtype=self._wide)
        last = torch.empty_like(states[:, :, 0], memory_format=torch.contiguous_format)
        grid = self._pairs, _cover(key_dim, self._blocks[0]), _cover(values.shape[3], self._blocks[1])
        # Where there is no first state, its pointer is not followed.
        start = last if first is None else first.contiguous()
        arguments = keys, values, token_decay, self._decays.chunk, start, states, last
        self._run(self._programs.carry_states, grid, *arguments, HAS_FIRST=first is not None, BACKWARDS=backwards)
        return states, last

    def _run(self, program: Any, grid: tuple[int, ...], *tensors: Tensor, **constants: Any) -> None:
        # Triton launches on the current device, which need not be the one of the tensors.
        with torch.cuda.device_of(self.query):
            program[grid](*tensors, **self._constants, **constants)

    def _of_values(self) -> tuple[int, int]:
        """A program for each chunk and block of values."""
        return self._pairs * self._chunks, _cover(self.value.shape[3], self._blocks[1])

    def _of_keys(self) -> tuple[int, int]:
        """A program for each chunk and block of keys."""
        return self._pairs * self._chunks, _cover(self.key.shape[3], self._blocks[0])

    def _tokens(self) -> tuple[int, ...]:
        return *self.query.shape[:2], self._chunks, int(self._constants["SIZE"])


def products_of(query: Tensor) -> tuple[torch.dtype, str]:
    """The dtype of products and how float32 is multiplied. Sums of float16 would overflow: its numbers are widened."""
    if query.dtype is torch.bfloat16 and not _interprets():
        return torch.bfloat16, "ieee"
    if query.dtype is torch.float16:
        return torch.float32, "tf32"  # which holds every float16 number exactly
    # Not `allow_tf32`, which raises where the user has set this one.
    rounds = query.dtype is torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return torch.promote_types(query.dtype, torch.float32), "tf32" if rounds else "ieee"


def _interprets() -> bool:
    """Whether Triton interprets its programs, on a CPU. It multiplies bfloat16 wrongly there (3.9.0)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _block(size: int, most: int) -> int:
    """The width of a tile of a dimension: a power of two from 16."""
    return min(most, max(16, 1 << (size - 1).bit_length()))


def _cover(size: int, block: int) -> int:
    """How many blocks cover a dimension."""
    return -(-size // block)
