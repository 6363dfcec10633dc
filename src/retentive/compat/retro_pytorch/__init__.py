"""``retro_pytorch`` by its own names, as of release 0.3.9; see ``docs/migrating.md``."""

from retentive.compat.retro_pytorch.data import RETRODataset
from retentive.compat.retro_pytorch.retro_pytorch import RETRO
from retentive.compat.retro_pytorch.training import TrainingWrapper

__all__ = ["RETRO", "RETRODataset", "TrainingWrapper"]
