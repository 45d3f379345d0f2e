"""Optimised CPU kernels for the networks: C++ sources and their wrappers as tensor functions."""
