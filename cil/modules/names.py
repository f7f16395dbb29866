"""Class names as a text tower reads them."""

from collections.abc import Iterable


def written(names: Iterable[str], underscores: bool) -> list[str]:
    """With spaces, as CoOp has them, or with the underscores of CIFAR100's own names, as some released code keeps them."""
    return [name.replace(" ", "_") if underscores else name for name in names]
