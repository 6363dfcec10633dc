"""Runs: from a token store or from batches to a trained model, kept in a folder."""
