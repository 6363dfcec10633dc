"""The neighbours of every chunk, for training."""
