"""Measurements of a trained model, and their report."""
