"""One step of training: gradients, their way back, and the update."""
