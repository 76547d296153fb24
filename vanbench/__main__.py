"""`python -m vanbench`: the command line."""

import sys

from vanbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
