"""The CPU runtime: products with sparse matrices, compiled by numba."""
