"""The options of the demo."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Take a folder of text: prepare, train models with decoders of equal size, evaluate, stream, go on, and report.

    Args:
        corpus: Folder of text, or one file; without it, the sources of Python's standard library on this machine.
        output: Folder of everything that is made. Started again with the same corpus, the demo goes on from there;
            with another one, or for another time, it makes anew what it made before.
        minutes: Time for training and measuring; the number of training steps is chosen to fit, by timing a few.
        vocab_size: Token ids that the tokenizer learns from the corpus.
    """

    corpus: Path | None = None
    output: Path = Path("runs/demo")
    minutes: float = 6.5
    vocab_size: int = 2048

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.minutes > 0:
            raise ValueError(f"minutes must be above 0, but is {self.minutes}.")
