"""Curricula: training on texts that grow stage by stage, in memory or as a run with checkpoints."""
