"""The options of commands: from the fields of configs, from files, and for the fields of a model."""
