"""What the fast arrangements of the network compute with: C++ source and its wrappers as tensor functions."""
