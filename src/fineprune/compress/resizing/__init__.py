"""Models whose layers have other sizes than their config says: built, saved, loaded."""
