"""What contestants do: each module here has a function ``works(**options)`` and runs in its contestant's own Python."""
