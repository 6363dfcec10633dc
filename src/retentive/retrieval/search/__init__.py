"""Queries and answers."""
