"""`python -m levit_np`: the command, where the folder it was installed into is not on the path."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
