"""Text files of the registry: header lines `# key: value`, then rows. The header contains a digest of the rows."""

import hashlib
from pathlib import Path

from cil.common.errors import UserError


def digest(value: object) -> str:
    """Hash of a value's `repr`, as 16 hex digits. The class order of a run is hashed by the same function."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def read(file: Path) -> tuple[dict[str, str], list[str]]:
    """Return the header and the rows of a file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    head = [line[1:].partition(":") for line in lines if line.startswith("#")]
    rows = [line for line in lines if line and not line.startswith("#")]
    return {key.strip(): value.strip() for key, _, value in head}, rows


def verify(file: Path, head: dict[str, str], content: object) -> None:
    """Raise a UserError if the digest in the header does not match the content."""
    found, stated = digest(content), head.get("digest")
    if found != stated:
        raise UserError(f"{file} was edited: its head says digest {stated}, its rows have {found}; put the file back, "
                        "or keep yours under a name and a digest of its own")  # fmt: skip
