"""Finds the layers, blocks, attentions and feed-forward layers of a model, given the layouts of known architectures."""
