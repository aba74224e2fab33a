"""`fineprune sweep`: many runs, as a table."""
