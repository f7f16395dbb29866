"""Print the table of a scenario from its finished runs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.tables import main

if __name__ == "__main__":
    sys.exit(main())
