"""The CPU runtime: models whose weights are mostly zero, run without multiplying by the zeros."""
