"""Several processes: what they add up about sharded weights, and how they fail together."""
