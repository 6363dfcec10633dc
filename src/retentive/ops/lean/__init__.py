"""The library's memory optimisations; `plain.is_plain` and `plain.may_write_over` decide where they may be used."""
