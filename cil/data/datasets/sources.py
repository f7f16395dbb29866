"""Addresses and terms of the datasets. Their checksums are in conf/dataset."""

from typing import NamedTuple

from cil.data.datasets.imagenet100 import LAYOUT
from cil.data.datasets.places import PREPARED


class Source(NamedTuple):
    """The files to fetch for a dataset, or what the user has to do."""

    files: dict[str, str]  # path below the data root → URL
    terms: str
    by_hand: str = ""


BERKELEY, CALTECH = "https://people.eecs.berkeley.edu/~hendrycks", "https://data.caltech.edu/records/65de6-vp158/files"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
CLOTHES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
BIRDS = "folder reads your own tree below data.root: dataset.path=birds wants birds/{train,test}/<class>/*.jpg"

DRIVE, RESEARCH = "https://drive.google.com/file/d", "research only, not commercial"
NO_TRAINING = "CC BY 4.0 with two clauses, one of which forbids to tune any model on it"
HANDED = {  # terms of the original, and where PILOT's or C3Box's README says that the folders are
    "cub200_pilot": (RESEARCH, f"{DRIVE}/1XbUpnWpJPnItt5zQ6sHJnsjPncnNLvWb"),
    "fgvc_aircraft": (RESEARCH, f"{DRIVE}/1xI5r1fU0d6Nff51HuOo5w-e4sGEP46Z2"),
    "food101": ("images are their owners'", f"{DRIVE}/1rupzXpwrbxki4l-RVmsRawhz1Cm0lDY5"),
    "imagenet_a": ("MIT; images are their owners'", f"{DRIVE}/19l52ua_vvTtttgVRziCZJjal0TPE9f2p"),
    "objectnet": (NO_TRAINING, "OneDrive, see README.md of github.com/LAMDA-CL/LAMDA-PILOT"),
    "omnibenchmark": ("images are their owners'", f"{DRIVE}/1AbCP3zBMtv_TDXJypOCnOgX8hJmvJm3u"),
    "stanford_cars": ("images are their owners'", f"{DRIVE}/1D8ReAuOPenWi6SMNUrOZhbm6ViyhDHbL"),
    "sun397": ("images are their owners'", "OneDrive, see README.md of github.com/LAMDA-CL/C3Box"),
    "ucf101": ("videos are their owners'", f"{DRIVE}/1Ng4w310_VDqpKbc7eYaumXTOiDxI02Wc"),
    "vtab": ("as its five parts", f"{DRIVE}/1xUiwlnx4k0oDhYi26KL5KwrCAya-mvJ_"),
}


def handed(name: str) -> str:
    """What to do for a dataset that others have cut and distribute in a browser."""
    (folder, archive), (terms, place) = PREPARED[name].any_of, HANDED[name]
    return f"""{name} is cut from a dataset whose terms are: {terms}.
Fetch it in a browser: {place}
Put it below data.root as {archive}, or unpacked as {folder}/train/<class>/… and {folder}/test/<class>/…"""


SOURCES = {
    "cifar100": Source(
        {"cifar-100-python.tar.gz": "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"}, "free; cite Krizhevsky 2009"
    ),
    "tinyimagenet": Source(
        {"tiny-imagenet-200.zip": "http://cs231n.stanford.edu/tiny-imagenet-200.zip"}, "ImageNet's terms: research only"
    ),
    "imagenet_r": Source({"imagenet-r.tar": f"{BERKELEY}/imagenet-r.tar"}, "MIT; images are their owners'"),
    "cub200": Source({"CUB_200_2011.tgz": f"{CALTECH}/CUB_200_2011.tgz"}, "research only, not commercial"),
    "fashion_mnist": Source({f"fashion-mnist/{name}.gz": f"{FASHION}/{name}.gz" for name in CLOTHES}, "MIT"),
    "imagenet100": Source({}, "ImageNet's terms: by registration", LAYOUT),
    "folder": Source({}, "yours", BIRDS),
    **{
        name: Source({}, "the fonts' (free)", f"{name} is drawn on the spot; there is nothing to fetch")
        for name in ("glyphs", "glyphs_latin", "glyphs_greek", "latin_then_greek")
    },
    **{name: Source({}, terms, handed(name)) for name, (terms, _) in HANDED.items()},
    "noise": Source({}, "free", "noise is made on the spot; there is nothing to fetch"),
    "imagenet100_then_cifar100": Source(
        {}, "as its parts", "type make data DATASET=imagenet100 and make data DATASET=cifar100"
    ),
}
