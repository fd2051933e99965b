"""``python -m avatar_gs`` is the command ``avatar-gs``."""

import sys

from avatar_gs.cli import main

if __name__ == "__main__":
    sys.exit(main())
