"""`fineprune quickstart`: prunes a real model on real text, without a download."""

from ...errors import require

require("quickstart", "matplotlib", "transformers", "numba", "zstandard")
