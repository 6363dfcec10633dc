"""The options of the demo."""

from dataclasses import dataclass
from pathlib import Path

from retentive.config_types import check_types


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Show everything on a folder of text: prepare, train models of equal size, evaluate, stream, resume and report.

    Args:
        corpus: Folder of text, or one file; without it, the sources of Python's standard library on this machine.
        output: Folder for everything that the demo makes. Started again with the same corpus and minutes, it goes on
            from there; with others, it replaces what it made before.
        minutes: Time for training and measuring. A few steps are timed, and as many are trained as fit.
        vocab_size: Token ids that the tokenizer learns from the corpus.
    """

    corpus: Path | None = None
    output: Path = Path("runs/demo")
    minutes: float = 6.5
    vocab_size: int = 2048

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        if not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, but is {self.minutes}.")
