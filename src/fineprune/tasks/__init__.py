"""Data sets and their metrics: what a model is trained on, and how it is judged."""
