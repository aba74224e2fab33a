"""`fineprune quickstart`: prunes a real model on real text, without a download."""
