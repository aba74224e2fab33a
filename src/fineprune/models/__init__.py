"""What a Transformers model is made of: layers, blocks, attentions, feed-forward layers."""
