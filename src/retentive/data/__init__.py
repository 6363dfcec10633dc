"""Text in: tokenizers, sources, token stores and batches."""
