"""Exact top-k over the scores of many matrices, without sorting."""
