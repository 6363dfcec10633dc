"""Families of language models over one decoder."""
