"""RetNet (arXiv:2307.08621): the decoder with retention."""

from retentive.models.retnet.config import RetNetConfig
from retentive.models.retnet.model import RetNet
from retentive.models.retnet.presets import PRESETS, retnet_1_3b, retnet_2_7b, retnet_6_7b, retnet_small, retnet_tiny

__all__ = [
    "PRESETS",
    "RetNet",
    "RetNetConfig",
    "retnet_1_3b",
    "retnet_2_7b",
    "retnet_6_7b",
    "retnet_small",
    "retnet_tiny",
]
