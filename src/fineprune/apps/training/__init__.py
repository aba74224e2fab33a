"""`fineprune train` and `evaluate`: from a recipe to a saved model."""
