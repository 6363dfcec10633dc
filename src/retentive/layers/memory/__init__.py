"""What is carried from segment to segment: memory tokens, and an associative memory."""
