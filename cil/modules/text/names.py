"""Class names as a text tower reads them."""

from collections.abc import Iterable


def written(names: Iterable[str], underscores: bool) -> list[str]:
    """With spaces, as CoOp has them, or with the underscores of CIFAR100's own names, as some released code keeps them."""
    return [plain(name.replace(" ", "_") if underscores else name) for name in names]


def plain(name: str) -> str:
    """Words that mean the start or the end of a text are no longer read as such inside a name."""
    for token in ("start_of_text", "end_of_text", "|startoftext|", "|endoftext|"):
        name = name.replace(f"<{token}>", f"< {token} >")
    return name
