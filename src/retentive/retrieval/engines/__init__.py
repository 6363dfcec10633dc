"""Engines: where the work on blocks runs; in this process, in several processes, or on a Ray cluster."""
