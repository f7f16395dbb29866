"""Go on with pre-training from a file on photographs: the last blocks of ViT-S/14 on the first half of TinyImageNet."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.recover import main

if __name__ == "__main__":
    sys.exit(main())
