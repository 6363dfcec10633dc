"""A model's state where transformers keeps keys and values: what `generate` carries, whatever the family."""

from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from retentive.shapes import TokenMask
from retentive.state import ModelState

# transformers 5.24 renamed the argument, the field of outputs and the key that `generate` carries.
CACHE_NAMES = ("cache", "past_key_values")
CACHE_NAME = next(name for name in CACHE_NAMES if name in CausalLMOutputWithPast.__dataclass_fields__)
"""What this release of transformers calls a cache."""

NO_KEYS = (
    "a state holds no keys and values to update, for it is not made of tokens; give the cache to the model, which "
    "replaces the state in it."
)


class StateLayer(CacheLayerMixin):
    """The one layer of a `StateCache`: the state of the whole model."""

    # `generate` would otherwise turn the padding mask into one of four dimensions, and compile on its own.
    is_compileable = False
    is_sliding = False
    supports_early_init = False

    def __init__(
        self,
        state: ModelState | None,
        seen: int,
        mask: TokenMask | None = None,
        base: Int[Tensor, "batch"] | None = None,
    ) -> None:
        """Begin with a state, or with nothing.

        Args:
            state: Of the model; None has read nothing.
            seen: Columns that were read.
            mask: Which of them were no padding; None where none was.
            base: Tokens of each row that were read before the first of them; None where none were.
        """
        super().__init__()
        self.state = state
        self.seen = seen
        self.mask = mask
        self.base = base

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Refused: there are no keys and values.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(NO_KEYS)

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Refused: there are no keys and values.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(NO_KEYS)

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Columns that a mask has, and the first of them; older releases pass the positions of the queries."""
        new = query_length if isinstance(query_length, int) else len(query_length)
        return self.seen + new, 0

    def get_seq_length(self) -> int:
        """Columns read so far, padding included."""
        return self.seen

    def get_max_length(self) -> int:
        """-1: a state has no limit."""
        return -1

    def get_max_cache_shape(self) -> int:
        """`get_max_length` by its older name."""
        return -1

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.seen, self.mask, self.base = None, 0, None, None

    def offload(self) -> None:
        """Move the state to the CPU."""
        if self.state is not None:
            self.state = self.state.to("cpu")

    def prefetch(self) -> None:
        """Nothing: the model moves the state to where it computes."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i go on from what row ``beam_idx[i]`` has read."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        if self.state is not None:
            rows = torch.arange(self.state.batch_size, device=self.state.position.device)
            self.batch_select_indices(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep, reorder or repeat rows."""
        if self.state is not None:
            self.state = self.state.select(indices)
        if self.mask is not None:
            self.mask = self.mask[indices.to(self.mask.device)]
        if self.base is not None:
            self.base = self.base[indices.to(self.base.device)]

    def crop(self, *_: Any) -> None:
        """Refused: what has been read cannot be unread.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "a state cannot be cropped, for what was read cannot be unread; keep an earlier one with "
            "StateCache.of(cache.state), which costs nothing."
        )


class StateCache(Cache):
    """A transformers cache that holds the state of a model of ours, of any family.

    The model replaces the state in it with each call. States are values that nothing changes, so keeping one to go on
    from it later, several times if wanted, is no copy: ``StateCache.of(cache)``.
    """

    def __init__(self, state: ModelState | None = None, seen: int = 0) -> None:
        """Begin with a state, such as one that `load_state` read, or with none.

        Args:
            state: Of the model; None has read nothing.
            seen: How many columns of the ids that ``generate`` is given, counted from the first, the state has read.
                With 0, all of them are new.

        Raises:
            ValueError: If ``seen`` is below 0, or if a cache without a state should have seen something.
        """
        if seen < 0 or (state is None and seen > 0):
            least = "at least 0" if state is not None else "0 for a cache without a state"
            raise ValueError(f"seen must be {least}, but is {seen}.")
        super().__init__(layers=[StateLayer(state, seen) if state is None else _layer_of(state, seen)])

    @classmethod
    def of(cls: "type[AnyStateCache]", other: "StateCache") -> "AnyStateCache":
        """Another cache at the same place, which goes on by itself."""
        cache = cls()
        layer = other.layer
        cache.layers = [StateLayer(layer.state, layer.seen, layer.mask, layer.base)]
        return cache

    @property
    def layer(self) -> StateLayer:
        """The one layer."""
        return self.layers[0]  # pyright: ignore[reportReturnType]

    @property
    def state(self) -> ModelState | None:
        """What the model carries; None before the first call."""
        return self.layer.state

    def advance(self, state: ModelState, columns: int, mask: TokenMask | None = None) -> None:
        """Take the state after a call that read so many columns, and the mask of these, None where all were real."""
        layer = self.layer
        if mask is not None or layer.mask is not None:
            device = state.position.device
            before, new = (
                torch.ones(state.batch_size, length, dtype=torch.bool, device=device) if known is None else known
                for known, length in ((layer.mask, layer.seen), (mask, columns))
            )
            layer.mask = torch.cat((before.to(device), new.to(device)), 1)
        layer.state, layer.seen = state, layer.seen + columns

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first call."""
        return -1 if self.state is None else self.state.batch_size


AnyStateCache = TypeVar("AnyStateCache", bound=StateCache)


def advanced_cache(
    cache: StateCache | None, is_wanted: bool, state: ModelState, columns: int, mask: TokenMask | None
) -> StateCache | None:
    """The cache after a call, see `StateCache.advance`: the one that came in, or a new one where one is wanted."""
    if cache is None and is_wanted:
        cache = StateCache()
    if cache is not None:
        cache.advance(state, columns, mask)
    return cache


def _layer_of(state: ModelState, seen: int) -> StateLayer:
    """Return the layer of a state whose rows all ended at the last of the columns that it has seen."""
    columns = torch.arange(seen, device=state.position.device)
    mask = columns >= seen - state.position[:, None]
    base = (state.position - seen).clamp_min(0)
    return StateLayer(state, seen, None if bool(mask.all()) else mask, base if bool(base.any()) else None)
