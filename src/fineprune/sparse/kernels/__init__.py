"""The compiled code: LLVM vectors, products, encoder layers, and how they run on PyTorch's threads."""
