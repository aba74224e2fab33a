"""Attaches the core to a model and an optimizer: hooks, questions, saving and resuming."""
