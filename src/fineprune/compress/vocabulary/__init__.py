"""Keeps only the tokens that a text uses, and their rows of the embeddings."""
