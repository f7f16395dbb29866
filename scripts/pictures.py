"""Draw pictures of a finished run into its folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.pictures import main

if __name__ == "__main__":
    sys.exit(main())
