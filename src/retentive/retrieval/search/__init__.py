"""Search: queries, the searcher over all indexes of a store, and the display of answers."""
