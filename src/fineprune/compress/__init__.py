"""After training: smaller models."""
