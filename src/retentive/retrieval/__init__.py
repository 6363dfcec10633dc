"""Text as memory: a datastore of chunks and their neighbours."""
