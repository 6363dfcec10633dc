"""Modules: a file holds a layer, its config and its state."""
