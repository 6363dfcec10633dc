"""The options of ``retentive retrieval_evidence``."""

from dataclasses import dataclass
from pathlib import Path

from retentive.config_types import check_count, check_counts
from retentive.experiments.retrieval_models.config import ModelsConfig


# No slots here: the command line's parser reads defaults through a config's ``__dict__``.
@dataclass(frozen=True, kw_only=True)
class RetrievalEvidenceConfig(ModelsConfig):
    """Measure several ways to use one datastore on one held-out text: in context, nearest tokens, RETROfit, RETRO.

    Further options are those of `ModelsConfig`.

    Args:
        packages: In place of a corpus: names of packages whose documentation is fetched, in their newest releases.
        model: Folder of a trained Transformer (see "retentive convert"). It is measured with what needs no training;
            null trains small models, RETROfit and RETRO among them.
        output: Folder for everything that the command makes. Started again with the same options, it goes on from
            there; only "seeds", "heldout_bytes" and "side_by_side" may differ. That of "retentive retro_evidence" may
            be given, whose models are then used.
        layer: Block whose feed-forward's input is the key of a nearest token, from 0; negative ones count from the
            last.
        k: Nearest tokens that are mixed into a prediction.
        datastore_bytes: Bytes of training text at most whose tokens have keys.
        context: Tokens of the document that are read after neighbours in the context.
        resamples: Draws of documents for each interval.
    """

    packages: tuple[str, ...] = ()
    model: Path | None = None
    output: Path = Path("runs/retrieval_evidence")
    heldout_bytes: int = 100_000
    layer: int = -1
    k: int = 32
    datastore_bytes: int = 8_000_000
    context: int = 320
    resamples: int = 1000

    def __post_init__(self) -> None:
        """Validate the fields."""
        super().__post_init__()
        check_counts(self, "k", "datastore_bytes", "resamples", "heldout_bytes")
        check_count("context", self.context, least=0, unit="token")

    def check_text(self) -> None:
        """See `ModelsConfig.check_text`; the documentation of packages is a text, too."""
        if not self.packages:
            super().check_text()
        elif self.corpus is not None or self.package is not None or self.releases:
            raise ValueError(
                f"packages take the place of a corpus and of a package with its releases, but these are {self.corpus}, "
                f"{self.package} and {list(self.releases)}: leave them out."
            )
