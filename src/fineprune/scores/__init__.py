"""How scores are stored: in full precision, in bfloat16, or as a product of two thin matrices."""
