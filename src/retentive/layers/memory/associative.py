"""An associative memory beside a block (Rodkin et al. 2024, arXiv:2407.04841): values are looked up by keys."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from retentive.config_types import check_kind, check_types
from retentive.layers.parameters.reset import reset_parts
from retentive.ops.precision import state_dtype
from retentive.shapes import Hidden
from retentive.state import RecurrentState


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociativeMemoryConfig:
    """Shape of an associative memory.

    Attributes:
        hidden_size: Width of the residual stream.
        key_dim: Channels of a key before its features are taken.
        features: Degree nu of the deterministic parameter-free projection (Schlag et al. 2021, arXiv:2102.11174): a key
            of d channels has ``2 * d * nu`` features.
        normaliser: How what is recalled is divided. ``published``: features of length 1, as in the authors' code, and
            the counts of eq. 5. ``bounded``: features as they are, each counted at least as much as it is written, so
            that what is recalled stays about as large as the values that were stored.
        epsilon: Added to denominators.
    """

    hidden_size: int
    key_dim: int
    features: int = 3
    normaliser: Literal["bounded", "published"] = "bounded"
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if self.normaliser not in ("bounded", "published"):
            raise ValueError(f"associative_normaliser must be 'bounded' or 'published', but is {self.normaliser!r}.")
        if self.key_dim < 1:
            raise ValueError(f"associative_dim must be at least 1 channel, but is {self.key_dim}.")
        if not 1 <= self.features < 2 * self.key_dim:
            raise ValueError(
                f"associative_features must be at least 1 and below 2 * associative_dim = {2 * self.key_dim}, after "
                f"which features repeat, but are {self.features}."
            )

    @property
    def num_features(self) -> int:
        """Features of a key."""
        return 2 * self.key_dim * self.features


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociativeState(RecurrentState):
    """What one associative memory holds, float32 or wider.

    Attributes:
        matrix: The sum of ``features(key) value^T``, corrected by the delta rule.
        normaliser: The sum of the features, each direction counted about once.
    """

    matrix: Float[Tensor, "batch features hidden"]
    normaliser: Float[Tensor, "batch features"]


class AssociativeMemory(nn.Module):
    """Read by every token of a segment, written once by the segment's memory tokens (eqs. 2 to 6)."""

    def __init__(self, config: AssociativeMemoryConfig) -> None:
        """Make the projections; only that of the write strength has a bias."""
        check_kind("config", config, AssociativeMemoryConfig)
        super().__init__()
        self.config = config
        self.query_proj = nn.Linear(config.hidden_size, config.key_dim, bias=False)
        self.key_proj = nn.Linear(config.hidden_size, config.key_dim, bias=False)
        self.value_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.strength_proj = nn.Linear(config.hidden_size, 1)
        self._fill()

    def reset_parameters(self) -> None:
        """Fill the parameters anew, as construction does."""
        reset_parts(self)
        self._fill()

    def _fill(self) -> None:
        nn.init.normal_(self.value_proj.weight, std=0.02)

    def initial_state(self, batch: int, device: torch.device | None, dtype: torch.dtype) -> AssociativeState:
        """An empty memory; what is read from it is 0."""
        features, wide = self.config.num_features, state_dtype(dtype)
        return AssociativeState(
            matrix=torch.zeros(batch, features, self.config.hidden_size, device=device, dtype=wide),
            normaliser=torch.zeros(batch, features, device=device, dtype=wide),
        )

    def forward(self, x: Hidden, state: AssociativeState) -> Hidden:
        """What each token recalls."""
        return self._recall(self._features(self.query_proj(x), state), state)[0].to(x.dtype)

    def write(self, x: Hidden, state: AssociativeState) -> AssociativeState:
        """The memory after the memory tokens ``x`` have been stored, all at once.

        What the memory already answers to a key is taken from the value before it is added (the delta rule), and a
        direction that the normaliser already counts is not counted again (eq. 5). With ``bounded``, every feature is
        counted at least as much as it is written here besides. Eq. 5 alone, which looks at a key as a whole, counts
        nothing of a feature that is new beside others that are counted often: its answer is then divided by little, and
        all that is written later is corrected by that.
        """
        key = self._features(self.key_proj(x), state)
        known, counted = self._recall(key, state)
        strength = self.strength_proj(x).sigmoid().to(state.matrix.dtype)
        change = strength * (self.value_proj(x).to(state.matrix.dtype) - known)
        # No gradient: it would push keys to be counted, whatever values they recall.
        new = self._uncounted(key, counted).detach()
        normaliser = state.normaliser + (new * key).sum(1)
        if self.config.normaliser == "bounded":
            normaliser = torch.maximum(normaliser, key.sum(1))
        return AssociativeState(matrix=state.matrix + torch.einsum("bsf,bsh->bfh", key, change), normaliser=normaliser)

    def _uncounted(self, key: Tensor, counted: Tensor) -> Tensor:
        """The share of each key that the normaliser does not count yet."""
        length = key.pow(2).sum(-1, keepdim=True)
        if self.config.normaliser == "bounded":
            return (1 - counted / (length + self.config.epsilon)).clamp(0, 1)
        # Their length is 1, or 0 where a key has no features, and then nothing is added.
        return (1 - counted / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp(0, 1)

    def _recall(self, features: Tensor, state: AssociativeState) -> tuple[Tensor, Tensor]:
        """The values that the memory answers to features, and how often it counts them."""
        counted = torch.einsum("btf,bf->bt", features, state.normaliser).unsqueeze(-1)
        return torch.einsum("btf,bfh->bth", features, state.matrix) / (counted + self.config.epsilon), counted

    def _features(self, key: Tensor, state: AssociativeState) -> Tensor:
        """Products of rectified channels with their neighbours: never negative, and mostly 0."""
        key = key.to(state.matrix.dtype)
        rectified = torch.cat((key, -key), -1).relu()
        rolled = (rectified.roll(shift, -1) for shift in range(1, self.config.features + 1))
        features = torch.cat([rectified * other for other in rolled], -1)
        return nn.functional.normalize(features, dim=-1) if self.config.normaliser == "published" else features
