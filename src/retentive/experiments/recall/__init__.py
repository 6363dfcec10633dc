"""How long a small memory holds a fact."""
