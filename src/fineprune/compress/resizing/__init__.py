"""Builds, saves and loads models whose layers have other sizes than their config says."""
