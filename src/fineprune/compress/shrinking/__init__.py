"""Removes all-zero groups for good; the output stays the same."""
