"""Hybrid models: layers that remember for ever in constant space, beside some that look up every token."""

from retentive.models.base import DecoderModel
from retentive.models.hybrid.config import HybridConfig


class Hybrid(DecoderModel):
    """The decoder with the mixers of a pattern."""

    config: HybridConfig

    def __init__(self, config: HybridConfig) -> None:
        """Make the model that the config describes."""
        super().__init__(config)
