"""Training: objectives, steps, runs, and the processes that share a run."""
