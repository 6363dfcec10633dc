"""The packages that users come from: same names, same calls, our models."""
