"""One training step: the loss, its gradients and the update of the weights."""
