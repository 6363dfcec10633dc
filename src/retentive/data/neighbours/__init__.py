"""Neighbours for training: the datastore of a token store, the neighbours of its chunks, and windows joined with them."""
