"""Means over the steps between two lines of metrics."""

from collections.abc import Mapping
from dataclasses import dataclass

from retentive.training.run.held_out import bits_per_byte
from retentive.training.step.learner import StepResult

_SUMS = ("nats", "labels", "bytes", "tokens", "seconds", "waiting")


@dataclass
class TrainingMeter:
    """Sums over steps: `numbers` returns their means, `clear` resets them.

    Attributes:
        flops_per_token: Operations of matrix products per token of training.
        matrix_flops_per_second: Peak speed of matrix products of all processes together.
    """

    flops_per_token: float
    matrix_flops_per_second: float
    _nats: float = 0.0
    _labels: int = 0
    _bytes: float = 0.0
    _tokens: int = 0
    _last: StepResult | None = None
    _seconds: float = 0.0
    _waiting: float = 0.0

    def add(self, result: StepResult, *, tokens: int, text_bytes: float, seconds: float, waiting: float) -> None:
        """Add a step.

        Args:
            result: What the step measured.
            tokens: Read by all processes.
            text_bytes: Predicted by all processes.
            seconds: That the step took.
            waiting: Those of them in which a process waited for its batch; the mean over processes.
        """
        self._nats += result.loss * result.num_labels
        self._labels += result.num_labels
        self._bytes += text_bytes
        self._tokens += tokens
        self._seconds += seconds
        self._waiting += waiting
        self._last = result

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of all processes together, without evaluations and checkpoints."""
        return self._tokens / self._seconds

    def numbers(self) -> dict[str, float | None]:
        """Return a line of metrics: means since `clear`, and the norm and learning rate of the last step."""
        assert self._last is not None
        return {
            "loss": self._nats / max(1, self._labels),
            "bits_per_byte": bits_per_byte(self._nats, self._bytes),
            "tokens_per_second": self.tokens_per_second,
            "gradient_norm": self._last.gradient_norm,
            "learning_rate": self._last.learning_rate,
            "matrix_speed_share": self.tokens_per_second * self.flops_per_token / self.matrix_flops_per_second,
            "data_wait_share": self._waiting / self._seconds,
        }

    def clear(self) -> None:
        """Reset all sums."""
        self._nats, self._labels, self._bytes, self._tokens = 0.0, 0, 0.0, 0
        self._seconds, self._waiting = 0.0, 0.0

    def sums(self) -> dict[str, float]:
        """Return all sums, for a checkpoint; JSON keeps every bit of them."""
        return {name: getattr(self, f"_{name}") for name in _SUMS}

    def go_on_from(self, sums: Mapping[str, float]) -> None:
        """Continue the sums of an earlier process; missing ones are 0."""
        for name in _SUMS:
            setattr(self, f"_{name}", sums.get(name, 0))
