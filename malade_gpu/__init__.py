"""MALADE on a GPU: the public names of `malade_ref`, computed with CuPy, Numba CUDA and CUDA C++.

Without a GPU the same code runs on the emulated device (``MALADE_GPU_EMULATE=1``), slowly and strictly; see `device`.
"""
