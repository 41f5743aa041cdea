"""Speed of this package and of its peers, measured side by side: see ``python -m bench --help``."""
