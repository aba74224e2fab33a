"""The settings of pruning: method, density, structure, schedule, budget and the storage of scores."""
