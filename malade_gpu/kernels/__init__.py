"""Kernels: bodies per element in Python (Numba), and CUDA C++ files."""
