"""How a step changes the weights, and its learning rate; every attribute is an option of ``retentive train``."""

# No slots here: the command line's parser reads the defaults of a nested config through its ``__dict__``.

from dataclasses import dataclass

from retentive.config_types import check_count, check_types
from retentive.training.field_checks import check_positive


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101).

    Attributes:
        learning_rate: Highest learning rate, reached at the end of the warm-up.
        beta1: Decay rate of the running mean of gradients.
        beta2: Decay rate of the running mean of squared gradients.
        epsilon: Added to the root of the mean squared gradient.
        weight_decay: Share of each weight that is subtracted per step, times the learning rate. Norms, biases and
            embeddings (a tied head too) have no decay.
        clip_norm: Gradients whose norm over all parameters is above this are scaled down to it; null clips nothing.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "optimizer.")
        for name in ("learning_rate", "epsilon"):
            check_positive(f"optimizer.{name}", getattr(self, name))
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} must be at least 0 and below 1, but is {getattr(self, name)}.")
        if not self.weight_decay >= 0:
            raise ValueError(f"optimizer.weight_decay must be at least 0, but is {self.weight_decay}.")
        if self.clip_norm is not None:
            check_positive("optimizer.clip_norm", self.clip_norm)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the steps: a linear warm-up, then half a cosine down.

    Attributes:
        warmup_steps: Steps until the learning rate is at its highest; null is a tenth of the steps until it is at its
            lowest, and at most 100.
        decay_steps: Step at which it is at its lowest, where it stays; null is the last step of the run as it was
            begun. With a number here, a run can be given more steps before it has finished.
        final_share: The lowest learning rate, as a share of the highest, 0 to 1.
    """

    warmup_steps: int | None = None
    decay_steps: int | None = None
    final_share: float = 0.1

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self, "schedule.")
        if self.warmup_steps is not None:
            check_count("schedule.warmup_steps", self.warmup_steps, 0, "step")
        if self.decay_steps is not None and self.decay_steps <= self.warmup_until(self.decay_steps):
            raise ValueError(
                f"schedule.decay_steps must be above schedule.warmup_steps, {self.warmup_steps}, but is "
                f"{self.decay_steps}."
            )
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"schedule.final_share must be from 0 to 1, but is {self.final_share}.")

    def warmup_until(self, decay_steps: int) -> int:
        """Steps of the warm-up of a learning rate that is at its lowest at step ``decay_steps``."""
        return min(100, decay_steps // 10) if self.warmup_steps is None else self.warmup_steps
