"""The compact file of a model: a safetensors container whose gaps and values are entropy coded."""
