"""Download datasets into the data folder and verify their checksums.

make data DATASET=cifar100
python scripts/fetch_data.py cifar100 tinyimagenet
python scripts/fetch_data.py cub200 --root /data --from https://example.org/files

An interrupted download is resumed. The first run that uses a dataset decodes
its images.
"""

import argparse
from pathlib import Path

from cil.common.errors import UserError, nearest
from cil.launch.compose import compose, guarded


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--root", type=Path, default=Path("data"), help="as data.root (%(default)s)")
    parser.add_argument("--from", dest="mirror", metavar="URL", help="a folder or URL that has the same files")
    asked = parser.parse_args(words)

    def work() -> None:
        for name in asked.datasets:
            get(name, asked.root, asked.mirror)

    return guarded(work, "type --root DIR")


def get(name: str, root: Path, mirror: str | None) -> None:
    """Download one dataset, or print how to get it by hand."""
    from cil.data.archives import check
    from cil.data.datasets.places import SOURCES
    from cil.data.download import fetch

    if name not in SOURCES:
        raise UserError(f"dataset {name} is not known; {nearest(name, SOURCES)}")
    source, config = SOURCES[name], compose(f"dataset={name}")["dataset"]
    if isinstance(source, str):
        print(source)
        return
    print(f"{name}: {source.terms}")
    for place in source.files:
        file, md5 = root / place, config.get("md5")
        if file.is_file():
            check(file, md5)
            print(f"{file} is there{' and has the right checksum' if md5 else ''}")
            continue
        url = f"{(mirror or source.address).rstrip('/')}/{Path(place).name}"
        if mirror and "://" not in mirror:
            url = (Path(mirror) / Path(place).name).resolve().as_uri()
        print(f"{file}: {fetch(url, file, f'md5:{md5}' if md5 else None)}")
