"""Processes that train together, and tensors that they share."""
