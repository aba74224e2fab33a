"""Extractive question answering, scored by SQuAD's rules."""
