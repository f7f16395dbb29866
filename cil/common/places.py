"""Where the parts of the installation lie, in a checkout of the repository and in an installed package."""

import os
import re
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
    """The first words of a command that starts a run: `python run.py` in the checkout's folder, `cil` elsewhere."""
    return ["python", "run.py"] if Path.cwd() == CHECKOUT else ["cil"]


def as_typed_here(text: str) -> str:
    """A message with its commands as the working folder has them: elsewhere than in the checkout's folder, those of `cil`."""
    if Path.cwd() == CHECKOUT:
        return text
    text = re.sub(r"\bmake (data DATASET|weights NAME)=", lambda found: f"cil {found[1].split()[0]} ", text)
    return text.replace("python run.py --help", "cil options").replace("python run.py", "cil")


def importable() -> dict[str, str]:
    """An environment in which further processes can import this package."""
    path = os.environ.get("PYTHONPATH", "")
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), path]))}
