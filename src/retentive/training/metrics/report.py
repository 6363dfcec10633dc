"""The summary of a run."""

from dataclasses import dataclass
from pathlib import Path

from retentive.training.run.held_out import HeldOutLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """The summary of a run.

    Attributes:
        run: The run's folder.
        steps: Steps done in all.
        resumed_at: Step that the run resumed at; None if it began anew.
        stopped: Whether a signal stopped it before its last step.
        loss: Mean loss of the last steps, as in the last line of metrics, in nats; None if there were none to do.
        held_out: The last evaluation; None if there was none.
        best_step: Step with the lowest held-out loss; None without evaluations.
        best_loss: That loss, in nats.
        model: Folder of the model for `load_model`; None if the run was stopped.
        seconds: Duration of this process.
        training_seconds: Duration of all steps, those before a restart included.
        parameters: Number of the model's parameters.
        learning: Number of them that are trained; fewer where a backbone is frozen.
        predicts_next_token: Whether the model can generate text; an encoder cannot.
        rank: Number of the process that reports; 0 where one trains alone.
        lora_rank: Rank of LoRA, which the saved weights hold; 0 where there was none.
    """

    run: Path
    steps: int
    resumed_at: int | None
    stopped: bool
    loss: float | None
    held_out: HeldOutLoss | None
    best_step: int | None
    best_loss: float | None
    model: Path | None
    seconds: float
    training_seconds: float
    parameters: int
    learning: int
    predicts_next_token: bool
    rank: int
    lora_rank: int = 0

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        begun = "" if self.resumed_at is None else f", gone on from step {self.resumed_at:,}"
        lines = [f"run {self.run}: {self.steps:,} steps{begun}, {self.seconds:,.1f} s"]
        if self.learning < self.parameters:
            share = self.learning / self.parameters
            kept = (
                f"the saved backbone holds LoRA of rank {self.lora_rank}"
                if self.lora_rank
                else "the backbone is as it was"
            )
            counts = f"{self.learning:,} of {self.parameters:,} parameters"
            lines.append(f"  {counts} learned ({share:.1%}), {kept}")
        if self.held_out is not None:
            bits = self.held_out.bits_per_byte
            lines.append(
                f"  held-out loss {self.held_out.loss:.4f} nats per token"
                + ("" if bits is None else f", {bits:.4f} bits per byte")
            )
        if self.best_step is not None:
            lines.append(f"  best held-out loss {self.best_loss:.4f} at step {self.best_step:,}")
        if self.model is not None:
            lines.append(f"  model {self.model}")
        if self.stopped:
            lines.append("  stopped by a signal; run the same command again to resume from here")
        return lines
