"""YOCO (arXiv:2405.05254): a decoder whose second half reads one cache of keys and values."""

from retentive.models.yoco.config import YocoConfig
from retentive.models.yoco.model import Yoco
from retentive.models.yoco.presets import PRESETS, yoco_small, yoco_tiny

__all__ = ["PRESETS", "Yoco", "YocoConfig", "yoco_small", "yoco_tiny"]
