"""Several processes that train one model: communication, wrapping and sharded files."""
