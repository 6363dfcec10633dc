"""Trained models as files that run without this library."""
