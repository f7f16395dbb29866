"""Print the commands of a sweep, one per line, for a job array or another queue."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.expand import main

if __name__ == "__main__":
    sys.exit(main())
