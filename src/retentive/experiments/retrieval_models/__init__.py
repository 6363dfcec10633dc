"""A text that repeats itself, and small models of it with neighbours and without: shared by both reports."""
