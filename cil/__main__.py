"""`python -m cil` is the command `cil`."""

import sys

from cil.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
