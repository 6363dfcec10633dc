"""Every objective by name; a new one is a file here and a line below."""

from retentive.training.objectives.distillation import DistillationConfig
from retentive.training.objectives.masked_tokens import MaskedTokensConfig
from retentive.training.objectives.matching import MatchingConfig
from retentive.training.objectives.next_token import NextTokenConfig
from retentive.training.objectives.protocol import ObjectiveConfig

OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "next_token": NextTokenConfig,
    "masked_tokens": MaskedTokensConfig,
    "distillation": DistillationConfig,
    "matching": MatchingConfig,
}
"""Name, as ``--objective`` takes it -> the config that makes the objective. Programs may add their own."""


def objective_name(config: ObjectiveConfig) -> str:
    """The name of an objective's config.

    Raises:
        ValueError: If its class is not in `OBJECTIVES`.
    """
    found = next((name for name, kind in OBJECTIVES.items() if kind is type(config)), None)
    if found is None:
        raise ValueError(
            f"objective must be of a class in OBJECTIVES ({', '.join(OBJECTIVES)}), but is a {type(config).__name__}: "
            "add the class under a name of its own."
        )
    return found
