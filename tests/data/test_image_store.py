"""Photographs decoded once: exact, whole or absent, shared by jobs, and read only where a crop looks."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import cil.data.image_store
from cil.common.errors import UserError, explain
from cil.data.archives import members
from cil.data.image_parts import PART, TAIL, write_part
from cil.data.image_store import Photos, Size, Store
from cil.data.transforms.views import ImageSpec, View
from tests.data.datasets import miniature
from tests.harness import ROOT

SIZES = ((90, 60), (60, 90), (300, 200), (48, 48), (200, 40), (31, 57))
PLAIN = ImageSpec(32, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {f"{k:02d}.jpg": miniature.jpeg(k, size) for k, size in enumerate(SIZES)}


def photos(files, folder, count=None, size=None) -> Photos:
    found = members(miniature.zipped(files, folder / "photos.zip"))
    names = sorted(found)[:count]
    return Photos(folder / "decoded" / "test", names, [found[name] for name in names], size, torch.arange(len(names)))


def random() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_decoding_keeps_every_pixel(files, tmp_path):
    pixels = photos(files, tmp_path).decoded(Size())
    for row, content in enumerate(files.values()):
        assert np.array_equal(pixels.store.photo(row), miniature.pixels(content))
    assert pixels.shape == (6, 200, 3, 300)


@pytest.mark.parametrize("view", [
    View(PLAIN, "centre", resize=40, filter="bicubic"),
    View(PLAIN, "centre", filter="bilinear"),
    View(PLAIN, "whole", filter="bicubic"),
], ids=lambda view: view.words()[:30])  # fmt: skip
def test_views_without_chance_are_torchvision_s_to_the_bit(files, tmp_path, view):
    """Also from a store that was made at the size that the view needs."""
    how = transforms.InterpolationMode(view.filter)
    resize = transforms.Resize((32, 32) if view.crop == "whole" else view.resize or 32, how)
    reference = transforms.Compose([resize, transforms.CenterCrop(32), transforms.PILToTensor()])
    wanted = torch.stack([reference(Image.fromarray(miniature.pixels(content))) for content in files.values()])
    for size in (Size(), Size(*view.needs)):
        pixels = photos(files, tmp_path).decoded(size)
        assert torch.equal(view.geometry(pixels[torch.arange(6)]), wanted.float()), size


def test_random_crops_are_pillow_s_of_the_same_boxes(files, tmp_path):
    from cil.data.transforms.crops import random_boxes

    pixels = photos(files, tmp_path).decoded(Size())
    view = View(PLAIN, "random_resized", flip=0.5)
    got = view.geometry(pixels[torch.arange(6)], random())
    again = random()
    tall, wide = torch.from_numpy(pixels.store.sizes.astype(np.int64)).unbind(1)
    boxes = random_boxes(6, tall, wide, view.scale, view.ratio, again)
    mirrored = torch.rand(6, generator=again) < 0.5
    assert mirrored.any() and not mirrored.all()
    for row, content in enumerate(files.values()):
        top, left, height, width = (int(side[row]) for side in boxes)
        photo = Image.fromarray(miniature.pixels(content)).crop((left, top, left + width, top + height))
        photo = np.asarray(photo.resize((32, 32), Image.Resampling.BILINEAR))
        photo = photo[:, ::-1] if mirrored[row] else photo
        assert np.array_equal(got[row].permute(1, 2, 0).numpy().astype(np.uint8), photo)


def test_images_of_one_size_take_the_batched_path(tmp_path):
    same = {f"{k}.jpg": miniature.jpeg(k, (40, 40)) for k in range(3)}
    batch = photos(same, tmp_path).decoded(Size())[torch.tensor([2, 0])]
    assert batch.shape == (2, 40, 3, 40)
    assert np.array_equal(batch[0].permute(0, 2, 1).numpy(), miniature.pixels(same["2.jpg"]))


def test_a_crop_reads_the_pixels_of_its_box_only(tmp_path):
    """Counted in pages of the file that come into memory."""
    height, width = 3000, 3000
    file = tmp_path / "one.part"
    write_part(file, [np.zeros((height, width, 3), np.uint8)])
    script = f"""
import os, sys, numpy as np
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from cil.data.transforms import crops
from cil.data import image_parts
whole = image_parts.open_part(Path({str(file)!r})).pixels
import PIL.Image
photo = whole[: {height * width * 3}].reshape({height}, {width}, 3)
def mapped():
    lines = open("/proc/self/smaps").read().split({file.name!r})[1]
    return int(lines.split("Rss:")[1].split()[0])
before = mapped()
crops.boxed(photo, 32, (100, 100, 50, 50), "bilinear")
print(mapped() - before)
"""
    kilobytes = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert 0 < kilobytes < 0.15 * height * width * 3 / 1024


def test_a_killed_decoding_goes_on_with_what_is_missing(files, tmp_path, monkeypatch):
    many = {f"{k:04d}.jpg": content for k, content in enumerate(list(files.values()) * 100)}
    listing, decoded = photos(many, tmp_path), []
    real = cil.data.image_store.decode
    monkeypatch.setattr(cil.data.image_store, "decode", lambda m, name, s: (decoded.append(name), real(m, name, s))[1])
    monkeypatch.setattr(cil.data.image_store.os, "sched_getaffinity", lambda pid: {0})

    def dies(member, name, size):
        if name == f"{PART + 100:04d}.jpg":
            raise KeyboardInterrupt
        return real(member, name, size)

    with monkeypatch.context() as during:
        during.setattr(cil.data.image_store, "decode", dies)
        with pytest.raises(KeyboardInterrupt):
            listing.decoded(Size())
    folder = next((tmp_path / "decoded" / "test").iterdir())
    assert sorted(path.name for path in folder.iterdir()) in (["00000.part", "lock"], ["00000.part", "00002.part", "lock"])
    (folder / ".00001.part.999.partial").write_bytes(b"half")
    kept = len(list(folder.glob("*.part")))
    whole = listing.decoded(Size())
    assert len(decoded) in (len(many) - PART, PART) and kept < 3
    assert not list(folder.glob(".*"))
    for row in (0, PART - 1, PART, PART + 100, len(many) - 1):
        assert np.array_equal(whole.store.photo(row), miniature.pixels(many[f"{row:04d}.jpg"]))
    decoded.clear()
    assert listing.decoded(Size()).digest() == whole.digest() and not decoded


def test_a_full_disk_is_one_line_and_leaves_nothing(files, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file, self.room = file, 5000

        def write(self, content):
            self.room -= len(memoryview(content).cast("B"))
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.file.name)
            return self.file.write(content)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    opened = type(tmp_path).open
    monkeypatch.setattr(type(tmp_path), "open", lambda self, mode="r", *a, **k: Full(opened(self, mode, *a, **k))
                        if mode == "wb" else opened(self, mode, *a, **k))  # fmt: skip
    listing = photos(files, tmp_path)
    with pytest.raises(OSError) as error:
        listing.decoded(Size())
    assert "is full; free some space and type the same command" in explain(error.value)
    assert [path.name for path in next((tmp_path / "decoded" / "test").iterdir()).iterdir()] == ["lock"]


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-1], lambda whole: whole[:100], lambda whole: b"", lambda whole: whole + b"x"]
)
def test_a_damaged_part_is_decoded_again(files, tmp_path, damage, capsys):
    listing = photos(files, tmp_path)
    wanted = listing.decoded(Size()).digest()
    (part,) = (tmp_path / "decoded" / "test").rglob("*.part")
    whole = part.read_bytes()
    part.write_bytes(damage(whole))
    assert listing.decoded(Size()).digest() == wanted and part.read_bytes() == whole
    assert f"{part} is damaged and is decoded again" in capsys.readouterr().out


def test_a_changed_byte_anywhere_changes_no_pixel(files, tmp_path):
    """Fifty parts with one changed byte each, in the pixels and in every field of the footer."""
    listing = photos(files, tmp_path)
    truth = [miniature.pixels(content) for content in files.values()]
    wanted = listing.decoded(Size()).digest()
    (part,) = (tmp_path / "decoded" / "test").rglob("*.part")
    whole, chance = part.read_bytes(), np.random.default_rng(0)
    footer = len(whole) - TAIL - 16 * len(files)
    for place in [*chance.integers(0, footer, 20), *chance.integers(footer, len(whole), 30)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(chance.integers(8))
        part.write_bytes(changed)
        pixels = listing.decoded(Size())
        assert pixels.digest() == wanted
        assert all(np.array_equal(pixels.store.photo(row), photo) for row, photo in enumerate(truth)), place
        assert part.read_bytes() == whole, place


def test_a_damaged_part_of_photographs_that_changed_stops_the_run(files, tmp_path):
    """An archive of the same size and time, so that only the digests can tell."""
    listing = photos(files, tmp_path)
    pixels, archive = listing.decoded(Size()), tmp_path / "photos.zip"
    (part,) = (tmp_path / "decoded" / "test").rglob("*.part")
    changed = bytearray(part.read_bytes())
    changed[5] ^= 1
    part.write_bytes(changed)
    first, second = listing.members[0], listing.members[3]
    mixed = replace(listing, members=[second, *listing.members[1:]])
    pixels.store._photos = mixed
    assert archive.exists() and first != second
    with pytest.raises(UserError, match="its source photographs have changed since"):
        pixels.store.photo(0)


def test_listings_share_the_groups_that_they_have_in_common(files, tmp_path, monkeypatch):
    listing, decoded, real = photos(files, tmp_path), [], cil.data.image_store.decode
    monkeypatch.setattr(cil.data.image_store, "decode", lambda m, name, s: (decoded.append(name), real(m, name, s))[1])
    one = replace(listing, groups=(2, 3)).decoded(Size())
    assert sorted(decoded) == list(listing.names)
    decoded.clear()
    order = [2, 4, 5, 0, 1, 3]  # the second group first, then one that is new, then the first
    other = replace(
        listing, names=[listing.names[k] for k in order], members=[listing.members[k] for k in order], groups=(1, 3, 5)
    ).decoded(Size())
    assert sorted(decoded) == ["03.jpg", "04.jpg", "05.jpg"]
    for row, k in enumerate(order):
        assert np.array_equal(other.store.photo(row), one.store.photo(k))
    assert one.digest() == listing.decoded(Size()).digest()


def test_two_processes_decode_once(files, tmp_path):
    """The second waits for the first, also when the first is killed."""
    many = {f"{k:04d}.jpg": content for k, content in enumerate(list(files.values()) * 100)}
    miniature.zipped(many, tmp_path / "photos.zip")
    script = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import torch
from pathlib import Path
import cil.data.image_store
from cil.data.archives import members
slow, real = sys.argv[1] == "slow", cil.data.image_store.decode
count = 0
def decode(*a):
    global count
    count += 1
    time.sleep(0.3 * slow)
    return real(*a)
cil.data.image_store.decode = decode
root = Path({str(tmp_path)!r})
found = members(root / "photos.zip")
names = sorted(found)
Photos, Size = cil.data.image_store.Photos, cil.data.image_store.Size
photos = Photos(root / "decoded" / "test", names, [found[n] for n in names], None, torch.arange(len(names)))
print("begins", flush=True)
print(photos.decoded(Size()).digest().hex(), count, flush=True)
"""

    def start(how):
        return subprocess.Popen([sys.executable, "-c", script, how], stdout=subprocess.PIPE, text=True)

    first = start("slow")
    assert first.stdout.readline() == "begins\n"
    while not list((tmp_path / "decoded").rglob("lock")):
        time.sleep(0.05)
    second, third = start("fast"), start("fast")
    for process in (second, third):
        assert process.stdout.readline() == "begins\n"
        assert "waiting for process" in process.stdout.readline()
    first.send_signal(signal.SIGKILL)
    ends = [process.communicate(timeout=60)[0].splitlines() for process in (second, third)]
    first.wait()
    digests, counts = zip(*(lines[-1].split() for lines in ends), strict=True)
    assert len(set(digests)) == 1
    assert sorted(map(int, counts))[0] == 0  # one of them found everything done


def test_the_store_is_what_is_in_memory(files, tmp_path):
    """A store maps its files: opening one of any size costs no memory for pixels."""
    store = photos(files, tmp_path).decoded(Size()).store
    assert isinstance(store, Store) and not store.uniform
    with pytest.raises(UserError, match="crop=padded keeps the scale, but images are of many sizes"):
        View(PLAIN, "padded", padding=2).geometry([store.photo(0)], random())
