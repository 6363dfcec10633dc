"""Other people's weights: checkpoints of other packages, read without running code in them."""

from retentive.checkpoints.conversion.convert import Converted, convert, read_foreign, to_foreign
from retentive.checkpoints.conversion.formats import format_names

__all__ = ["Converted", "convert", "format_names", "read_foreign", "to_foreign"]
