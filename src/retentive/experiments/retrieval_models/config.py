"""What is trained on which text: the options that the reports of neighbours share."""

from dataclasses import dataclass
from pathlib import Path

from retentive.config_types import check_counts, check_types

# No slots here: the command line's parser reads defaults through a config's ``__dict__``.


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """A text, and how small models are trained on it.

    Args:
        corpus: Folder of text, or a tar archive of one.
        package: In place of a corpus: name of a package whose releases are fetched, each a revision of one text. The
            last release is held out.
        releases: Its releases, the oldest first.
        pattern: Which files, as in "retentive prepare".
        output: Folder for everything that the command makes. Started again with the same options, it goes on from
            there; only "seeds", "heldout_bytes" and "side_by_side" may differ.
        seeds: Models of each kind are trained for each.
        steps: Training steps of RETRO and of the Transformer.
        batch_size: Windows of 512 tokens in a step.
        fit_steps: Training steps of RETROfit, which starts from that Transformer.
        own_text_steps: Steps at most in which all samples find their own text among the neighbours; see
            `NeighbourDataConfig`.
        near_duplicates: Jaccard similarity from which chunks and documents count as copies and are no neighbours (0.8
            in the RETRO paper); null excludes exact copies only.
        aligned: Shift each neighbour so that its longest run in common with the chunk stands at the chunk's own place.
        copies: With "aligned": shift exact copies too, which is what revisions leave unchanged.
        heldout_bytes: Bytes of held-out text at most, in whole documents.
        side_by_side: Models that are trained at the same time, each on one thread.
    """

    corpus: Path | None = None
    package: str | None = None
    releases: tuple[str, ...] = ()
    pattern: str = "**/*"
    output: Path = Path("runs/retrieval")
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 2000
    batch_size: int = 4
    fit_steps: int = 1300
    own_text_steps: int = 1000
    near_duplicates: float | None = None
    aligned: bool = False
    copies: bool = False
    heldout_bytes: int = 250_000
    side_by_side: int = 2

    def __post_init__(self) -> None:
        """Validate the fields."""
        check_types(self)
        self.check_text()
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be at least one, each another, but are {list(self.seeds)}.")
        check_counts(self, "steps", "fit_steps", "batch_size", "heldout_bytes", "side_by_side")
        if self.copies and not self.aligned:
            raise ValueError("copies must be false where aligned is, which alone shifts them.")
        if not 0 <= self.own_text_steps <= self.steps:
            raise ValueError(f"own_text_steps must be from 0 to steps = {self.steps}, but is {self.own_text_steps}.")

    def check_text(self) -> None:
        """Validate that there is one text.

        Raises:
            ValueError: If there is none, or more than one.
        """
        if (self.corpus is None) == (self.package is None):
            raise ValueError(
                f"corpus must be a folder of text or a tar archive, or package the name of a package, one of them, but "
                f"they are {self.corpus} and {self.package}."
            )
        if bool(self.releases) != (self.package is not None) or len(self.releases) == 1:
            raise ValueError(
                "releases must be at least two releases of the package, the oldest first, and nothing without one, but "
                f"are {list(self.releases)}."
            )
