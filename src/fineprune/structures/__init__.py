"""Which weights are pruned together."""
