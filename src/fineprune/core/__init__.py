"""The idea: what happens to gradients, weights, scores and masks around the optimizer's step."""
