"""How a version of a store is made: built, added to, taken from, and what old versions leave on disk."""
