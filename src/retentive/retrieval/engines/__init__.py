"""Where the work on blocks is done: in this process, beside it, or on a cluster."""
