"""What other people's packages compute, beside what this library makes of their weights."""
