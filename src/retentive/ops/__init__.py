"""Mathematics: pure functions on tensors, each with its equation."""
