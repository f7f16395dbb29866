"""Where the parts of the installation lie, in a checkout of the repository and in an installed package."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "conf" / "config.yaml").is_file() else None  # None: an installed wheel
CONF = (CHECKOUT or PACKAGE) / "conf"  # the wheel holds conf/ inside the package


def entry() -> list[str]:
    """The first words of a command that starts a run: `python run.py` in a checkout, `cil` otherwise."""
    return ["python", "run.py"] if CHECKOUT else ["cil"]
