"""`python -m invdenoise` is the command `invdenoise`."""

import sys

from invdenoise.cli import main

if __name__ == "__main__":
    sys.exit(main())
