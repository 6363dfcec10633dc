"""EleutherAI's lm-evaluation-harness over a saved model."""

from retentive.evaluation.harness.command import install, uninstall
from retentive.evaluation.harness.tasks import HarnessConfig, HarnessReport, evaluate_tasks

__all__ = ["HarnessConfig", "HarnessReport", "evaluate_tasks", "install", "uninstall"]
