"""Whether a model that reads neighbours copies from them: three controls beside the held-out loss.

A chunk's own text, shifted, is the best neighbour that there can be. A model whose loss it does not lower cannot copy,
so no other neighbour can help it. Copying is learned suddenly, after some hundred steps in which own text is there to
be copied, and not at all where it is taken away before: so it is held until it is copied.
"""

from dataclasses import dataclass, replace

from retentive.data.manifest import Split
from retentive.data.neighbours.batches import OwnText, RetrievalBatches
from retentive.data.token_store import TokenStore
from retentive.models.protocol import FamilyConfig
from retentive.training.run.config import TrainConfig
from retentive.training.run.held_out import HeldOutWindows
from retentive.training.run.sources import BatchSource, Reads
from retentive.training.step.learner import Learner

COPIED = 0.1
"""Share of the loss without neighbours that own text has to save, for it to count as copied."""

NOTHING = 0.01
"""Share below which it saves nothing."""

CHECK_EVERY, CHECK_WINDOWS = 50, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourControls:
    """Held-out loss of a model that reads neighbours, in nats per label, with something else in their place.

    Attributes:
        without_neighbours: Nothing.
        others_neighbours: The neighbours of other chunks.
        own_text: Neighbours of which one is the chunk's own text, shifted.
    """

    without_neighbours: float
    others_neighbours: float
    own_text: float

    @property
    def copied(self) -> float:
        """Share of the loss without neighbours that own text saves."""
        return _share_saved(self.without_neighbours, self.own_text)

    def numbers(self) -> dict[str, float]:
        """The losses by name."""
        return {
            "without_neighbours": self.without_neighbours,
            "others_neighbours": self.others_neighbours,
            "own_text": self.own_text,
        }

    def line(self) -> str:
        """The losses in a line, with a warning where own text gains nothing."""
        losses = (
            f"  without neighbours {self.without_neighbours:.4f}, with others' {self.others_neighbours:.4f}, with own "
            f"text (the copying control) {self.own_text:.4f}"
        )
        return losses if self.copied >= NOTHING else f"{losses}\n  warning: {NO_COPYING}"


NO_COPYING = (
    "own text as a neighbour saves nothing, so the model does not copy yet, and no neighbour can help it; it needs an "
    "encoder of at least 2 layers, neighbours.own_text_steps of some hundreds, a learning rate of about 1e-3 at width "
    "128, and chunks of subword tokens."
)


class Copying:
    """Measures the controls of a run, and says when own text may be let go.

    Args:
        model: Config of a model that reads neighbours.
        store: Where the tokens are.
        config: Options of the run.
        parts: Parts that each process's rows are cut into.
    """

    def __init__(self, model: FamilyConfig, store: TokenStore, config: TrainConfig, parts: int) -> None:
        self._limit = config.neighbours.own_text_steps
        # Where nothing is held out, text of training shows as well whether own text is copied.
        split: Split = "heldout" if store.manifest.splits["heldout"].documents else "train"

        def windows(reads: Reads, count: int | None) -> HeldOutWindows:
            return HeldOutWindows(model, store, config, parts, reads=reads, split=split, windows=count)

        self._check = {reads: windows(reads, CHECK_WINDOWS) for reads in ("nothing", "own text")} if self._limit else {}
        self._controls = (
            {reads: windows(reads, None) for reads in ("nothing", "others' neighbours", "own text")}
            if config.held_out.every is not None
            else {}
        )

    def controls(self, learner: Learner) -> NeighbourControls:
        """Measure all three on the windows of an evaluation."""
        found = {reads: windows.evaluate(learner).loss for reads, windows in self._controls.items()}
        return NeighbourControls(
            without_neighbours=found["nothing"],
            others_neighbours=found["others' neighbours"],
            own_text=found["own text"],
        )

    def after(self, step: int, learner: Learner) -> str | None:
        """After a step with own text in all samples: why it may be let go from the next one on; None keeps it."""
        if not self._limit or (step % CHECK_EVERY and step < self._limit):
            return None
        losses = {reads: windows.evaluate(learner).loss for reads, windows in self._check.items()}
        saved = _share_saved(losses["nothing"], losses["own text"])
        share = f"own text as a neighbour saves {saved:.0%} of the held-out loss"
        if saved >= COPIED:
            return f"{share}: it is copied, and from now on given to fewer and fewer samples"
        if step < self._limit:
            return None
        advice = NO_COPYING if saved < NOTHING else "more neighbours.own_text_steps may help."
        return f"warning: {share} after neighbours.own_text_steps = {self._limit:,}; it goes all the same: {advice}"


def falling_from(source: BatchSource, step: int) -> BatchSource:
    """The same batches; from a step on the share of own text falls, in as many steps as there were until then."""
    assert isinstance(source, RetrievalBatches)
    return replace(source, own_text=OwnText(released=step, fall=step))


def _share_saved(without: float, with_own_text: float) -> float:
    return 1 - with_own_text / without if without > 0 else 0.0
