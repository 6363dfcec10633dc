"""The baseline: the decoder with attention."""
