"""Where the parts of the installation lie, in a checkout of the repository and in an installed package."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "conf" / "config.yaml").is_file() else None  # None: an installed wheel
CONF = (CHECKOUT or PACKAGE) / "conf"  # a wheel holds conf/ inside the package


def outputs() -> Path:
    """The folder of all runs: CIL_OUTPUTS, or outputs/ below the working directory."""
    return Path(os.environ.get("CIL_OUTPUTS", "outputs"))


def data() -> Path:
    """The folder of all datasets: CIL_DATA, or data/ below the working directory."""
    return Path(os.environ.get("CIL_DATA", "data"))


def entry() -> list[str]:
    """The first words of a command that starts a run: `python run.py` in a checkout, `cil` otherwise."""
    return ["python", "run.py"] if CHECKOUT else ["cil"]


def importable() -> dict[str, str]:
    """An environment in which further processes can import this package."""
    path = os.environ.get("PYTHONPATH", "")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), path]))}
