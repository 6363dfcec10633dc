"""Objectives: what training minimises. `OBJECTIVES` names them all; add your own to it from anywhere."""

from retentive.training.objectives.draws import RowDraws
from retentive.training.objectives.protocol import Measured, Objective, ObjectiveConfig, Vocabulary
from retentive.training.objectives.registry import OBJECTIVES

__all__ = ["OBJECTIVES", "Measured", "Objective", "ObjectiveConfig", "RowDraws", "Vocabulary"]
