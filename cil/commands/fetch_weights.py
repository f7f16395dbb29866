"""Download pre-trained weights, verify them and record their sha256.

make weights NAME=vit_b16_in21k
python scripts/fetch_weights.py vit_b16_in21k clip_vit_b16
python scripts/fetch_weights.py --list    # all names and their files
python scripts/fetch_weights.py vit_b16_sam --from /media/weights

Weights are stored as <root>/<name>/<file>, with their sha256 in <file>.sha256.
Files that are present are verified and not downloaded again. --from names a
folder or URL that mirrors the Hugging Face hub.
"""

import argparse
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from cil.backbones.registry import Entry, entries, pin_of, pinned
from cil.common.errors import UserError, nearest
from cil.common.files import write_text
from cil.data.download import digest_of, fetch
from cil.launch.compose import guarded

HUB = "https://huggingface.co"
COLUMNS = 80


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="list all names; download nothing")
    parser.add_argument("--root", type=Path, default=Path("data/weights"), help="as data.weights (%(default)s)")
    parser.add_argument("--from", dest="base", metavar="DIR_OR_URL", help=f"a mirror ($HF_ENDPOINT, else {HUB})")
    asked = parser.parse_intermixed_args(words)

    def work() -> None:
        if asked.list:
            print("\n".join(table(asked.root)))
            return
        if not asked.names:
            raise UserError(f"which weights? type make weights NAME=vit_b16_in21k, or one of {', '.join(entries())}")
        for name in asked.names:  # reject wrong names before downloading anything
            if name not in entries():
                raise UserError(f"weights {name} are not registered; {nearest(name, entries())}")
        for name in asked.names:
            print(bring(entries()[name], asked.root, asked.base), flush=True)

    return guarded(work, "type --root DIR")


def bring(entry: Entry, root: Path, base: str | None) -> str:
    """Make sure that the weights are present and verified; returns a line about them."""
    here = entry.found_in(root)
    if entry.made and not here:
        raise entry.absent(root)
    for name in entry.beside if not here or here[0].parent == root / entry.name else ():
        if not (root / entry.name / name).is_file():
            fetch(source(entry, base)[0].rpartition("/")[0] + f"/{name}", root / entry.name / name, None)
    if here:
        return verify(entry, *here)
    url, known = source(entry, base)
    file = root / entry.name / url.rpartition("/")[2]
    found = fetch(url, file, f"sha256:{known}" if known else None).partition(":")[2]
    pin(file, found)
    against = "verified" if known else "pinned, since the registry has no sha256 to compare"
    return f"{entry.name}: {file}, {size(file)}, sha256 {found} ({against})"


def verify(entry: Entry, file: Path, known: str | None) -> str:
    """Compare the sha256 of a file with the expected one; returns a line about it."""
    wanted, found = known or pinned(file), digest_of(file, "sha256")
    if wanted and wanted != found:
        raise UserError(f"{file} has sha256 {found[:12]}…, {'the registry' if known else pin_of(file).name} has "
                        f"{wanted[:12]}…; remove the file and type the same command")  # fmt: skip
    pin(file, found)
    return f"{entry.name}: {file}, {size(file)}, sha256 {found} (there already, {'verified' if wanted else 'pinned now'})"


def pin(file: Path, sha256: str) -> None:
    """Write <file>.sha256 in the format of sha256sum, so that `sha256sum -c` can read it."""
    if pinned(file) != sha256:
        write_text(pin_of(file), f"{sha256}  {file.name}\n")


def source(entry: Entry, base: str | None) -> tuple[str, str | None]:
    """The URL of the weights and their expected sha256, or None if it is unknown."""
    base = base or os.environ.get("HF_ENDPOINT") or HUB
    if re.match(r"[a-z]+://", base):
        url = f"{base.rstrip('/')}/{entry.repo}/resolve/main/{entry.file}"
        return url, entry.sha256 or sha256_on_hub(url)
    folder = Path(base).expanduser().resolve()
    here = entry.found_in(folder)
    if here is None:
        raise UserError(f"{folder} has no weights {entry.name} (looked for {entry.name}/{entry.file} and "
                        f"{entry.repo}/{entry.file}); type --from DIR_OR_URL of a mirror")  # fmt: skip
    return here[0].as_uri(), here[1] or pinned(here[0])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def sha256_on_hub(url: str) -> str | None:
    """The sha256 of a file from the headers of the hub's answer, before its redirect; None if there is none."""
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "cil"})
        headers = urllib.request.build_opener(_NoRedirect).open(request, timeout=30).headers
    except urllib.error.HTTPError as error:
        headers = error.headers
    except (OSError, ValueError):
        return None  # the download will report the error
    words = (headers.get(key, "").removeprefix("W/").strip('"') for key in ("X-Linked-ETag", "ETag"))
    return next((word for word in words if re.fullmatch("[0-9a-f]{64}", word)), None)


def table(root: Path) -> list[str]:
    """The lines of --list: two per name, the second with its tag and its file."""
    from cil.backbones.weights import in_cache

    widths = (30, 9, 11, 14)
    lines = [row(widths, "name", "expects", "licence", "sha256"), "  tag, where", "─" * COLUMNS]
    for entry in entries().values():
        place, known = entry.found_in(root) or (entry.repo and in_cache(entry.repo, entry.file), entry.sha256)
        digest = known or (pinned(place) if place else None)
        lines.append(row(widths, entry.name, expected(entry), entry.licence, digest[:12] if digest else "not pinned"))
        where = str(place) if place else "–"
        width = COLUMNS - len(entry.tag) - 4
        lines.append(f"  {entry.tag}  {where if len(where) <= width else '…' + where[1 - width :]}")
    return lines


def row(widths: tuple[int, ...], *cells: str) -> str:
    return " ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def expected(entry: Entry) -> str:
    """The name of the input normalization, as in backbone.image.norm."""
    from cil.backbones.base import NORMS

    mean, std = tuple(entry.expects["mean"]), tuple(entry.expects["std"])
    return next((name for name, pair in NORMS.items() if pair == (mean, std)), "its own")


def size(file: Path) -> str:
    count = file.stat().st_size
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"
