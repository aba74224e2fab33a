"""Which groups are kept: the highest scores that fit a budget, exactly, without sorting."""
