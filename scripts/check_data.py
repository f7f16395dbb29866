"""List the datasets that are present, and say how to get the missing ones."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.check_data import main

if __name__ == "__main__":
    sys.exit(main())
