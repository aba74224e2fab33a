"""`fineprune shrink`, `pack` and `import`: a folder in, another folder out."""
