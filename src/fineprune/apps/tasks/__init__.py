"""Data sets and their metrics."""
