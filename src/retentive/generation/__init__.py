"""Text out: sampling, stopping and the streaming loop."""
