"""`fineprune quickstart`: a real model on real text, without a download."""
