"""Sparse 3D convolution."""
