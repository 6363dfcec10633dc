"""Recall: how long a small memory holds a fact."""
