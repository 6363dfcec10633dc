"""Neighbours while text is made: found in a datastore or read from a file, and shown."""
