"""The commands, a file or a folder each: options, one call, and what is printed."""
