"""Mixers: the layers in which tokens read one another; a file each, with its config, its layer and its state."""
