"""How scores start, learn and become a mask."""
