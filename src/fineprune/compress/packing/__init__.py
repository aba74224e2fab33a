"""Packed models: a whole model in one folder, with the gaps and values of its matrices entropy coded."""
