"""``yet_another_retnet``, with the names, arguments and results of release 0.5.1; see ``docs/migrating.md``."""
