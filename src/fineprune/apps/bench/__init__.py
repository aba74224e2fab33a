"""`fineprune bench`: a model in several forms, timed on this machine."""
