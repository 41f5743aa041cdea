"""``python -m malade_ref`` is ``malade``."""

import sys

from malade_ref.cli import main

if __name__ == "__main__":
    sys.exit(main())
