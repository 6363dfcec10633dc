"""Whether the neighbours of RETRO help, beside a Transformer of the same size."""
