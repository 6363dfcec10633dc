"""What the blocks of a recurrent memory give for one segment."""

from dataclasses import dataclass

from torch import Tensor

from retentive.layers.memory.associative import AssociativeState
from retentive.layers.mixers.key_value_cache import KeysAndValues
from retentive.shapes import Hidden
from retentive.state import RecurrentState


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The result of one step.

    Attributes:
        columns: Normalised, of all columns or of the write slots alone.
        slots: Index of the first write slot in them: 0 where there are no other columns.
        layers: The mixers' states.
        seen: Each block's inputs or outputs for the text.
        associations: The associative memories afterwards.
        kept: Keys and values of the end of the segment, where the next one can take them as they are.
    """

    columns: Hidden
    slots: int
    layers: tuple[RecurrentState, ...]
    seen: tuple[Tensor, ...]
    associations: tuple[AssociativeState, ...]
    kept: tuple[KeysAndValues, ...] = ()
