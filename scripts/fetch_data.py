"""Download datasets into the data folder and verify their checksums."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.fetch_data import main

if __name__ == "__main__":
    sys.exit(main())
