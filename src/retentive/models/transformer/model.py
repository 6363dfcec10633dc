"""The Transformer baseline: the decoder with attention, its state a key-value cache."""

from retentive.models.base import DecoderModel
from retentive.models.transformer.config import TransformerConfig


class Transformer(DecoderModel):
    """The decoder with attention in every block (Vaswani et al. 2017, arXiv:1706.03762)."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        """Make the model that the config describes."""
        super().__init__(config)
