"""Measurements: a script a number, its last result in docs/results."""
