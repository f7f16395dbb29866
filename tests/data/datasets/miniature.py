"""Small archives with the real layouts, made of random photographs."""

import gzip
import io
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cil.data.image_store import Size
from cil.engine.build import make
from tests.harness import compose


def jpeg(seed: int, size: tuple[int, int] = (64, 64), mode: str = "RGB") -> bytes:
    """A smooth picture; `size` is (width, height)."""
    small = np.random.RandomState(seed).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode).save(out, "JPEG", quality=90)
    return out.getvalue()


def pixels(content: bytes) -> np.ndarray:
    """(height, width, 3), as the plainest loader has it."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def lay(files: Mapping[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def zipped(files: Mapping[str, bytes], archive: Path, packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(archive, "w", packing) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return archive


def tarred(files: Mapping[str, bytes], archive: Path, mode: str = "w") -> Path:
    with tarfile.open(archive, mode) as opened:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return archive


def tinyimagenet(train: int = 2) -> dict[str, bytes]:
    """Three classes, not in the order of wnids.txt; photographs of one class grey and of another CMYK."""
    wnids, files, lines = ["n03", "n01", "n02"], {}, []
    for k, (wnid, mode) in enumerate(zip(wnids, ("RGB", "L", "CMYK"), strict=True)):
        for number in range(train):
            files[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = jpeg(100 * k + number, mode=mode)
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b""
    for number in range(150):
        files[f"val/images/val_{number}.JPEG"] = jpeg(1000 + number)
        lines.append(f"val_{number}.JPEG\t{wnids[number % 3]}\t0\t0\t1\t1")
    files["val/val_annotations.txt"] = "\n".join(lines).encode()
    files["wnids.txt"] = "\n".join(wnids).encode()
    files["words.txt"] = b"n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\tking penguin, penguin"
    files["test/images/test_0.JPEG"] = jpeg(5)
    return {f"tiny-imagenet-200/{name}": content for name, content in files.items()}


def cub200() -> dict[str, bytes]:
    """Two species, five photographs of five sizes."""
    place = {1: "001.Black_footed_Albatross/a.jpg", 2: "001.Black_footed_Albatross/b.jpg", 3: "002.Laysan_Albatross/c.jpg",
             4: "002.Laysan_Albatross/d.jpg", 5: "002.Laysan_Albatross/e.jpg"}  # fmt: skip
    files = {f"images/{path}": jpeg(n, (40 + 30 * n, 120 - 10 * n)) for n, path in place.items()}
    files["images.txt"] = "".join(f"{n} {path}\n" for n, path in place.items()).encode()
    files["image_class_labels.txt"] = b"1 1\n2 1\n3 2\n4 2\n5 2\n"
    files["train_test_split.txt"] = b"1 0\n2 1\n3 1\n4 0\n5 1\n"
    files["classes.txt"] = b"1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n"
    return {f"CUB_200_2011/{name}": content for name, content in files.items()}


def imagenet_r(wnids: tuple[str, ...]) -> dict[str, bytes]:
    """Five renditions of every class, and the files that lie beside them."""
    names = ("art_0", "art_1", "sketch_0", "toy_2", "toy_10")
    files = {f"{wnid}/{name}.jpg": jpeg(k, (24 + k % 5, 20)) for wnid in wnids for k, name in enumerate(names)}
    return {f"imagenet-r/{name}": content for name, content in {"README.txt": b"names", **files}.items()}


def cifar100(images: int = 4) -> dict[str, bytes]:
    random, files = np.random.RandomState(0), {}
    for name in ("train", "test"):
        data = random.randint(0, 256, (images, 3072)).astype(np.uint8)
        labels = [(k + 1) % 2 for k in range(images)]
        content = {"data": data, "fine_labels": labels, "coarse_labels": [0] * images, "filenames": ["a"] * images}
        files[name] = pickle.dumps(content, protocol=2)
    files["meta"] = pickle.dumps({"fine_label_names": ["apple", "aquarium_fish"]}, protocol=2)
    return {f"cifar-100-python/{name}": content for name, content in files.items()}


def fashion_mnist(images: int = 20) -> dict[str, bytes]:
    random, files = np.random.RandomState(0), {}
    for side in ("train", "t10k"):
        grey = random.randint(0, 256, (images, 28, 28)).astype(np.uint8)
        head = b"\0\0\x08\x03" + np.array([images, 28, 28], ">i4").tobytes()
        files[f"{side}-images-idx3-ubyte.gz"] = gzip.compress(head + grey.tobytes())
        labels = (np.arange(images) % 10).astype(np.uint8)
        files[f"{side}-labels-idx1-ubyte.gz"] = gzip.compress(
            b"\0\0\x08\x01" + np.array([images], ">i4").tobytes() + labels.tobytes()
        )
    return files


def imagenet(wnids: tuple[str, ...]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Training and validation photographs by class, as train/<wnid>/… and val/<wnid>/…; two and one each."""
    train = {f"train/{wnid}/{wnid}_{k}.JPEG": jpeg(2 * n + k, (30, 26)) for n, wnid in enumerate(wnids) for k in range(2)}
    val = {f"val/{wnid}/ILSVRC2012_val_{n + 1:08d}.JPEG": jpeg(5000 + n, (26, 30)) for n, wnid in enumerate(wnids)}
    return train, val


def prepared(folders: list[str], top: str = "") -> dict[str, bytes]:
    """Two training photographs and one for the test of every class, in the folders of PILOT's and C3Box's archives."""
    photos = [jpeg(n, (24 + n, 20)) for n in range(3)]
    sides = (("train", "a.jpg", 0), ("train", "b.JPEG", 1), ("test", "c.png", 2))
    return {f"{top}{side}/{name}/{file}": photos[n] for name in folders for side, file, n in sides}


def read(name, root, *words):
    """The data set, decoded as it is."""
    return make(compose(f"dataset={name}", *words)["dataset"], "dataset", root=str(root)).decoded(Size())


def photo(split, row: int) -> np.ndarray:
    """(height, width, 3), whatever the split is kept in."""
    (one,) = split[torch.tensor([row])]
    return one.permute(0, 2, 1).numpy() if isinstance(one, torch.Tensor) else one


def put(files: dict[str, bytes], folder: Path, archive: str | None) -> None:
    """Unpacked into `folder`, or as a gzipped tar of that name in it."""
    if archive is None:
        lay(files, folder)
    else:
        tarred(files, folder / archive, "w:gz")
