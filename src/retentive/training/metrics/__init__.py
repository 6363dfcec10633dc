"""What a run tells: means over steps, a log of JSON lines, and a summary at the end."""
