"""`fineprune train` and `evaluate`: from a recipe to a saved model."""

from ...errors import require

require("hub", "transformers", "accelerate", "datasets", "sklearn", "huggingface_hub", "jsonargparse", "yaml")
