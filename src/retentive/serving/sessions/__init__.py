"""Stored states: one small value a turn, in a folder or in Redis, where any replica finds it."""
