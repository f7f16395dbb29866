"""The text files of the registry: lines `# key: value`, then rows. The digest in the head pins the rows."""

import hashlib
from pathlib import Path

from cil.common.errors import UserError


def digest(value: object) -> str:
    """Sixteen hex digits over the value as Python writes it; a run names its class order by the same function."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def read(file: Path) -> tuple[dict[str, str], list[str]]:
    """The head and the rows."""
    lines = file.read_text(encoding="utf-8").splitlines()
    head = [line[1:].partition(":") for line in lines if line.startswith("#")]
    rows = [line for line in lines if line and not line.startswith("#")]
    return {key.strip(): value.strip() for key, _, value in head}, rows


def verify(file: Path, head: dict[str, str], content: object) -> None:
    found, told = digest(content), head.get("digest")
    if found != told:
        raise UserError(f"{file} was edited: its head says digest {told}, its rows have {found}; put the file back, "
                        "or keep yours under a name and a digest of its own")  # fmt: skip
