"""Where the files of each dataset lie below the data root, how many classes it has, and where the files come from.

The checksums of the files are in conf/dataset. Importing this does not import torch.
"""

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
DRIVE = "https://drive.google.com/file/d"
RESEARCH, OWNERS = "research only, not commercial", "images are their owners'"
NO_TRAINING = "CC BY 4.0 with two clauses, one of which forbids to tune any model on it"
# Of the function `prepared`: key, classes, folder, archive, terms of the original, address in PILOT's or C3Box's README.
HANDED = (
    ("cub200_pilot", 200, "cub", "cub.zip", RESEARCH, f"{DRIVE}/1XbUpnWpJPnItt5zQ6sHJnsjPncnNLvWb"),
    ("fgvc_aircraft", 100, "aircraft", "aircraft.zip", RESEARCH, f"{DRIVE}/1xI5r1fU0d6Nff51HuOo5w-e4sGEP46Z2"),
    ("food101", 100, "food101", "food101.zip", OWNERS, f"{DRIVE}/1rupzXpwrbxki4l-RVmsRawhz1Cm0lDY5"),
    ("imagenet_a", 200, "imagenet-a", "ina.zip", f"MIT; {OWNERS}", f"{DRIVE}/19l52ua_vvTtttgVRziCZJjal0TPE9f2p"),
    ("objectnet", 200, "objectnet", "objnet.tgz", NO_TRAINING, "OneDrive, see README.md of github.com/LAMDA-CL/LAMDA-PILOT"),
    ("omnibenchmark", 300, "omnibenchmark", "omnibenchmark.zip", OWNERS, f"{DRIVE}/1AbCP3zBMtv_TDXJypOCnOgX8hJmvJm3u"),
    ("stanford_cars", 100, "cars", "cars.zip", OWNERS, f"{DRIVE}/1D8ReAuOPenWi6SMNUrOZhbm6ViyhDHbL"),
    ("sun397", 300, "sun", "sun.zip", OWNERS, "OneDrive, see README.md of github.com/LAMDA-CL/C3Box"),
    ("ucf101", 100, "ucf", "ucf.zip", "videos are their owners'", f"{DRIVE}/1Ng4w310_VDqpKbc7eYaumXTOiDxI02Wc"),
    ("vtab", 50, "vtab", "vtab.zip", "as its five parts", f"{DRIVE}/1xUiwlnx4k0oDhYi26KL5KwrCAya-mvJ_"),
)
PREPARED = {
    name: Place(name.removesuffix("_pilot"), classes, (folder, archive), name) for name, classes, folder, archive, *_ in HANDED
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


# --- where the files come from ----------------------------------------------------------------------------------------


class Source(NamedTuple):
    """The files to fetch for a dataset."""

    terms: str
    address: str  # of the folder that has them
    files: tuple[str, ...]  # paths below the data root


FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
CLOTHES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
LAYOUT = """ImageNet may not be fetched by a script. Register at image-net.org, then put one of these below data.root:
  imagenet/train/<wnid>/*.JPEG  imagenet/val/<wnid>/*.JPEG           (only the classes of the list are read)
  imagenet/ILSVRC/Data/CLS-LOC/{train/<wnid>,val}/*.JPEG  imagenet/ILSVRC/LOC_val_solution.csv     (Kaggle's)
  imagenet/ILSVRC2012_img_train.tar  imagenet/ILSVRC2012_img_val.tar  imagenet/ILSVRC2012_devkit_t12.tar.gz"""

SOURCES: dict[str, Source | str] = {  # a text says what the user has to do
    "cifar100": Source("free; cite Krizhevsky 2009", "https://www.cs.toronto.edu/~kriz", ("cifar-100-python.tar.gz",)),
    "tinyimagenet": Source("ImageNet's terms: research only", "http://cs231n.stanford.edu", ("tiny-imagenet-200.zip",)),
    "imagenet_r": Source(f"MIT; {OWNERS}", "https://people.eecs.berkeley.edu/~hendrycks", ("imagenet-r.tar",)),
    "cub200": Source(RESEARCH, "https://data.caltech.edu/records/65de6-vp158/files", ("CUB_200_2011.tgz",)),
    "fashion_mnist": Source("MIT", FASHION, tuple(f"fashion-mnist/{name}.gz" for name in CLOTHES)),
    "imagenet100": LAYOUT,
    "folder": "folder reads your own tree below data.root: dataset.path=birds wants birds/{train,test}/<class>/*.jpg",
    **{
        name: f"{name} is drawn on the spot; there is nothing to fetch"
        for name in ("glyphs", "glyphs_latin", "glyphs_greek", "latin_then_greek")
    },
    **{
        name: f"{name} is cut from a dataset whose terms are: {terms}.\nFetch it in a browser: {address}\n"
        f"Put it below data.root as {archive}, or unpacked as {folder}/train/<class>/… and {folder}/test/<class>/…"
        for name, _, folder, archive, terms, address in HANDED
    },
    "noise": "noise is made on the spot; there is nothing to fetch",
    "imagenet100_then_cifar100": "type make data DATASET=imagenet100 and make data DATASET=cifar100",
}
