"""Training data: sources of text, token stores and batches."""
