"""Neighbours for training: the datastore of a token store, and windows joined with the neighbours of their chunks."""
