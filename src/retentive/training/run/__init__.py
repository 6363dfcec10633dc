"""Training runs: many steps, on a token store with checkpoints, or in memory."""
