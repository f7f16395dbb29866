"""Where the files of each dataset lie below the data root, and how many classes it has. It needs no torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """What is known of a dataset without reading it."""

    name: str  # as in `Images.name`, which selects class orders; for messages if there are several
    classes: int
    any_of: tuple[str, ...] = ()  # folders and archives below the data root; one of them is enough
    key: str | None = None  # the word after DATASET= and dataset=


KNOWN = {  # by the name of the function
    "cifar100": Place("cifar100", 100, ("cifar-100-python", "cifar-100-python.tar.gz"), "cifar100"),
    "cub200": Place("cub200", 200, ("CUB_200_2011", "CUB_200_2011.tgz"), "cub200"),
    "fashion_mnist": Place(
        "fashion_mnist", 10, ("fashion-mnist", "FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"), "fashion_mnist"
    ),
    "imagenet_r": Place("imagenet_r", 200, ("imagenet-r", "imagenet-r.tar"), "imagenet_r"),
    "tinyimagenet": Place("tinyimagenet", 200, ("tiny-imagenet-200", "tiny-imagenet-200.zip"), "tinyimagenet"),
    "half": Place("tinyimagenet", 100, ("tiny-imagenet-200", "tiny-imagenet-200.zip"), "tinyimagenet"),
    "glyphs": Place("glyphs", 100),
}
PREPARED = {  # datasets of the function `prepared`, each a folder and an archive; those of C3Box have no known name
    "cub200_pilot": Place("cub200", 200, ("cub", "cub.zip"), "cub200_pilot"),
    "fgvc_aircraft": Place("fgvc_aircraft", 100, ("aircraft", "aircraft.zip"), "fgvc_aircraft"),
    "food101": Place("food101", 100, ("food101", "food101.zip"), "food101"),
    "imagenet_a": Place("imagenet_a", 200, ("imagenet-a", "ina.zip"), "imagenet_a"),
    "objectnet": Place("objectnet", 200, ("objectnet", "objnet.tgz"), "objectnet"),
    "omnibenchmark": Place("omnibenchmark", 300, ("omnibenchmark", "omnibenchmark.zip"), "omnibenchmark"),
    "stanford_cars": Place("stanford_cars", 100, ("cars", "cars.zip"), "stanford_cars"),
    "sun397": Place("sun397", 300, ("sun", "sun.zip"), "sun397"),
    "ucf101": Place("ucf101", 100, ("ucf", "ucf.zip"), "ucf101"),
    "vtab": Place("vtab", 50, ("vtab", "vtab.zip"), "vtab"),
}
NAMINGS = {"imagenet100": "lemma", "imagenet_r": "lemma", "prepared": "folders"}  # functions that know names for their classes


def parts(node: dict) -> list[Place] | None:
    """The datasets, one or several in turn, that a node of the configuration reads; None if one of them is not known."""
    function = str(node.get("_target_")).rpartition(".")[2]
    if function == "in_turn":
        each = [parts(node[key]) for key in ("first", "second") if node.get("only") in (None, key)]
        return None if None in each else [place for own in each for place in own or ()]
    if function == "imagenet100":
        return [Place(f"imagenet100_{node['classes']}", 100, ("imagenet",), "imagenet100")]
    if function == "alphabet":
        return [Place(f"glyphs_{node['script']}", node["classes"])]
    if function == "noise":
        return [Place("noise", node["classes"])]
    if function == "prepared":
        return [PREPARED[node["name"]]] if node.get("name") in PREPARED else None
    return [KNOWN[function]] if function in KNOWN else None


def words(node: dict) -> tuple[dict, str | None]:
    """The settings for the dataset's function, and the text file that gives words for the classes, if `names` is a file."""
    names, function = node.get("names"), str(node.get("_target_")).rpartition(".")[2]
    rest = {key: value for key, value in node.items() if key != "names"}
    if function not in NAMINGS:
        return rest, names
    file = isinstance(names, str) and (names.endswith(".txt") or Path(names).expanduser().is_file())
    return rest | {"names": NAMINGS[function] if file else names}, names if file else None


def absent(places: list[Place], root: Path) -> Iterator[str]:
    """Yield a line for each dataset of which nothing is there."""
    for place in places:
        if place.any_of and not any((root / path).exists() for path in place.any_of):
            looked = " and ".join(str(root / path) for path in place.any_of)
            yield (f"dataset {place.key} is not there (looked for {looked}); type make data DATASET={place.key}, or "
                   "data.root=DIR for where it is")  # fmt: skip
