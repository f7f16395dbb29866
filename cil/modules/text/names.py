"""Prepares class names for a text encoder."""

from collections.abc import Iterable


def written(names: Iterable[str], underscores: bool) -> list[str]:
    """Write names with spaces, as CoOp does, or with underscores as in CIFAR100's own names, as some released code does."""
    return [plain(name.replace(" ", "_") if underscores else name) for name in names]


def plain(name: str) -> str:
    """Put spaces into start and end tokens within a name, so that the tokenizer does not treat them as such."""
    for token in ("start_of_text", "end_of_text", "|startoftext|", "|endoftext|"):
        name = name.replace(f"<{token}>", f"< {token} >")
    return name
