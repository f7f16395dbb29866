"""Addresses and terms of the datasets. Their checksums are in conf/dataset."""

from typing import NamedTuple

from cil.data.datasets.imagenet100 import LAYOUT


class Source(NamedTuple):
    """The files to fetch for a dataset, or what the user has to do."""

    files: dict[str, str]  # path below the data root → URL
    terms: str
    by_hand: str = ""


BERKELEY, CALTECH = "https://people.eecs.berkeley.edu/~hendrycks", "https://data.caltech.edu/records/65de6-vp158/files"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
CLOTHES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
BIRDS = "folder reads your own tree below data.root: dataset.path=birds wants birds/{train,test}/<class>/*.jpg"

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
    "noise": Source({}, "free", "noise is made on the spot; there is nothing to fetch"),
    "imagenet100_then_cifar100": Source(
        {}, "as its parts", "type make data DATASET=imagenet100 and make data DATASET=cifar100"
    ),
}
