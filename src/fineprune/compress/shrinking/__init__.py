"""Removes all-zero groups from a model; the output stays the same."""
