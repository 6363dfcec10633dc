"""Measures of a model over documents: bits per byte, loss by position, speed, and how sure they are."""
