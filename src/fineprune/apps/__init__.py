"""The `fineprune` command and all that only it needs."""
