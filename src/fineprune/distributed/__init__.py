"""Runs of several processes: sums over sharded weights, and errors that reach every rank."""
