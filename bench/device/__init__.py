"""Speed on a device, beside PyTorch and JAX: see ``python -m bench.device --help``."""
