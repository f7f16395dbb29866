"""Class-incremental learning on vision transformers and CLIP: `cil.run`, `cil.load`, `cil.results` (see `cil.api`)."""

from typing import Any

__all__ = ["Run", "load", "results", "rows", "run"]


def __getattr__(name: str) -> Any:
    """Import the interface when it is first used, so that importing a part of the package stays cheap."""
    if name not in __all__:
        raise AttributeError(f"module 'cil' has no attribute {name!r}")
    from cil import api

    return getattr(api, name)
