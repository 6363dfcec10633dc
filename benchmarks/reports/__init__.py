"""What a benchmark makes of its numbers: the table and the picture."""
