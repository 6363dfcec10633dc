"""Chunks and their vectors on disk, in blocks that can be checked one by one."""
