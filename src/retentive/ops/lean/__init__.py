"""The library's memory optimisations: `plain.is_plain` decides where; docs/numbers/README.md says what each saves."""
