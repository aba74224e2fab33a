"""Many recipes: variants, grids and seeds, each trial a process of its own, and one table."""
