"""RetNet (Sun et al. 2023, arXiv:2307.08621): the decoder with retention.

Prompts run in the chunkwise form and single tokens in the recurrent form, without the user asking; the state that is
carried between calls has one size, whatever was read.
"""

from retentive.models.base import DecoderModel
from retentive.models.retnet.config import RetNetConfig


class RetNet(DecoderModel):
    """The decoder with retention in every block."""

    config: RetNetConfig

    def __init__(self, config: RetNetConfig) -> None:
        """Make the model that the config describes."""
        super().__init__(config)
