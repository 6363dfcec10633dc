"""Indexes: the nearest chunks of a query, by words or by vectors."""
