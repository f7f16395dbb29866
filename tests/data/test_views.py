"""Whole batches against Pillow and torchvision, one image at a time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import transforms

from cil.common.errors import UserError
from cil.data.transforms.crops import random_boxes
from cil.data.transforms.randaugment import rand_augment
from cil.data.transforms.views import ImageSpec, View, views

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MODES = {name: transforms.InterpolationMode(name) for name in PILLOW}


def spec(size: int) -> ImageSpec:
    return ImageSpec(size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pixels(height: int, width: int, count: int = 6) -> torch.Tensor:
    """Noise, then smooth ramps, then black and white: ties, gradients and overshoot."""
    random = np.random.RandomState(height * 1000 + width)
    images = random.randint(0, 256, (count, height, 3, width))
    images[count // 3 : 2 * count // 3] = (np.arange(height)[:, None, None] * 5 + np.arange(width) * 3) % 256
    images[2 * count // 3 :] = 255 * (images[2 * count // 3 :] > 127)
    return torch.from_numpy(images.astype(np.uint8))


def pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(0, 2, 1).contiguous().numpy())


def across_then_down(image: Image.Image, size: int, kind: str) -> Image.Image:
    """`Image.resize` as every Pillow before 13 had it: the newer goes down first when the height shrinks much more."""
    return image.resize((size, image.height), PILLOW[kind]).resize((size, size), PILLOW[kind])


def levels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("stored, size", [((32, 32), 224), ((64, 64), 32), ((32, 32), 97), ((31, 83), 64)])
def test_whole_resize_is_pillow_s_to_the_bit(stored, size, kind):
    images = pixels(*stored)
    wanted = [levels(pillow(image).resize((size, size), PILLOW[kind])) for image in images]
    assert torch.equal(View(spec(size), filter=kind).geometry(images), torch.stack(wanted))


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("stored, size", [((70, 50), 33), ((300, 20), 64)])
def test_tall_images_are_resized_as_before_pillow_13(stored, size, kind):
    images = pixels(*stored)
    wanted = [levels(across_then_down(pillow(image), size, kind)) for image in images]
    assert torch.equal(View(spec(size), filter=kind).geometry(images), torch.stack(wanted))


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("stored", [(48, 40), (40, 48), (32, 32), (300, 271)])
def test_centre_crop_is_torchvision_s_to_the_bit(stored, kind):
    images = pixels(*stored)
    reference = transforms.Compose([transforms.Resize(256, MODES[kind]), transforms.CenterCrop(224)])
    wanted = [levels(reference(pillow(image))) for image in images]
    assert torch.equal(View(spec(224), "centre", filter=kind, resize=256).geometry(images), torch.stack(wanted))


def test_an_image_of_the_right_size_is_left_alone():
    images = pixels(32, 32)
    assert torch.equal(View(spec(32)).geometry(images), images.permute(0, 2, 1, 3).float())


@pytest.mark.parametrize("size", [32, 64])
def test_normalised_as_torchvision_does(size):
    images, image = pixels(32, 32), spec(size)
    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(image.mean, image.std)]
    wanted = torch.stack([transforms.Compose(steps)(pillow(one)) for one in images])
    torch.testing.assert_close(View(image)(images), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("stored, size", [((32, 32), 224), ((48, 40), 64), ((90, 70), 32)])
def test_random_resized_crop_is_pillow_s_within_one_level(stored, size, kind):
    images = pixels(*stored, count=24)
    view = View(spec(size), "random_resized", flip=0.5, filter=kind)
    found, again = view.geometry(images, random(3)), random(3)
    boxes = torch.stack(random_boxes(len(images), *stored, view.scale, view.ratio, again), 1).int().tolist()
    mirrored = torch.rand(len(images), generator=again) < 0.5
    assert 0 < mirrored.sum() < len(images)
    wanted = []
    for image, (top, left, tall, wide), mirror in zip(images, boxes, mirrored, strict=True):
        piece = across_then_down(pillow(image).crop((left, top, left + wide, top + tall)), size, kind)
        wanted.append(levels(ImageOps.mirror(piece) if mirror else piece))
    differs = (found - torch.stack(wanted)).abs()
    assert differs.max() <= 1
    assert (differs > 0).float().mean() < 0.01


def test_padded_crop_is_pad_crop_mirror():
    images, padding = pixels(32, 32, count=48), 4
    found = View(spec(32), "padded", flip=0.5, padding=padding).geometry(images, random(5))
    again = random(5)
    top, left = torch.randint(-padding, padding + 1, (2, len(images)), generator=again) + padding
    mirrored = torch.rand(len(images), generator=again) < 0.5
    assert top.min() == 0 and top.max() == 2 * padding
    padded = torch.nn.functional.pad(images.permute(0, 2, 1, 3).float(), (padding,) * 4)
    for image, wide, y, x, mirror in zip(found, padded, top, left, mirrored, strict=True):
        piece = wide[:, y : y + 32, x : x + 32]
        assert torch.equal(image, piece.flip(2) if mirror else piece)


def test_padded_crop_of_another_size_says_what_to_type():
    with pytest.raises(UserError, match="images are 48x40 and the backbone wants 32; type augment=random_resized_crop"):
        View(spec(32), "padded", padding=4).geometry(pixels(48, 40), random())


@pytest.mark.parametrize("height, width", [(32, 32), (48, 40), (5, 7), (224, 160)])
def test_random_boxes_lie_inside_and_have_the_area_asked_for(height, width):
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    top, left, tall, wide = random_boxes(4000, height, width, scale, ratio, random(1))
    for start, length, whole in ((top, tall, height), (left, wide, width)):
        assert start.min() >= 0 and length.min() >= 1 and (start + length).max() <= whole
        assert torch.equal(start, start.round()) and torch.equal(length, length.round())
    # Sides are rounded to whole pixels, so the area is right to half a pixel a side.
    share, slack = tall * wide / (height * width), (tall + wide + 1) / 2 / (height * width)
    assert (share >= scale[0] - slack).all() and (share <= scale[1] + slack).all()
    assert ((wide + 0.5) / (tall - 0.5) >= ratio[0]).all() and ((wide - 0.5) / (tall + 0.5) <= ratio[1]).all()


def test_random_boxes_are_distributed_as_torchvision_s():
    ours = torch.stack(random_boxes(4000, 48, 40, (0.08, 1.0), (3 / 4, 4 / 3), random(2)), 1)
    torch.manual_seed(2)
    image, arguments = torch.empty(1, 48, 40), ([0.08, 1.0], [3 / 4, 4 / 3])
    theirs = torch.tensor([transforms.RandomResizedCrop.get_params(image, *arguments) for _ in range(4000)]).float()
    error = (ours.var(0) / 4000 + theirs.var(0) / 4000).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.06, atol=0)


@pytest.mark.parametrize(
    "height, width, box",
    [(8, 200, (0, 94, 8, 11)), (200, 8, (94, 0, 11, 8)), (30, 31, (0, 0, 30, 31))],
    ids=["too wide", "too tall", "ratio fits"],
)
def test_random_boxes_that_never_fit_fall_back_to_torchvision_s_centre(height, width, box):
    found = random_boxes(5, height, width, (4.0, 5.0), (3 / 4, 4 / 3), random())
    assert [tuple(int(side) for side in one) for one in zip(*found, strict=True)] == [box] * 5
    wanted = transforms.RandomResizedCrop.get_params(torch.empty(1, height, width), [4.0, 5.0], [3 / 4, 4 / 3])
    assert box == wanted


def test_same_seed_same_batch_and_another_seed_another():
    images, view = pixels(32, 32), View(spec(48), "random_resized", flip=0.5)
    assert torch.equal(view(images, random(7)), view(images, random(7)))
    assert not torch.equal(view(images, random(7)), view(images, random(8)))


def test_without_chance_an_image_does_not_depend_on_its_batch():
    images, view = pixels(32, 32, count=9), View(spec(224), "centre", filter="bicubic", resize=256)
    assert torch.equal(view(images)[4:5], view(images[4:5]))


@pytest.mark.parametrize("view", [View(spec(48)), View(spec(48), "random_resized")], ids=["exact", "fast"])
def test_grey_levels_survive_reduced_precision(view):
    images = pixels(32, 32)
    wanted = view(images, random(7))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(view(images, random(7)), wanted)


@pytest.mark.parametrize("view", [View(spec(32), flip=0.5), View(spec(32), "random_resized"), View(spec(32), "padded")])
def test_chance_needs_a_generator(view):
    assert view.has_chance
    with pytest.raises(ValueError, match="random generator"):
        view(pixels(32, 32))


@pytest.mark.parametrize(
    "words, line",
    [
        (dict(crop="center"), "augment.train.crop=center is not known; did you mean centre?"),
        (dict(filter="bicubik"), "augment.train.filter=bicubik is not known; did you mean bicubic?"),
        (dict(filter="xyz"), "augment.train.filter=xyz is not known; choose from bicubic, bilinear"),
        (dict(scale=[2, 3]), "augment.train.scale=[2, 3] is not a list, each a number above 0 to 1"),
        (dict(scale=[1.0, 0.5]), "scale=[1.0, 0.5] decreases; type scale=[0.5,1.0]"),
        (dict(flip=2), "augment.train.flip=2 is not a number from 0 to 1"),
        (dict(padding=1000, crop="padded"), "padding=1000 leaves nothing of 224 px"),
        (dict(padding=-1), "augment.train.padding=-1 is not a whole number from 0 on"),
        (dict(crop="centre", resize=200), "resize=200 is less than the backbone's 224 px"),
    ],
)
def test_a_wrong_word_is_told_with_the_nearest(words, line):
    with pytest.raises(UserError) as told:
        views(spec(224), train=words, test={})
    assert line in str(told.value)


def test_the_test_view_is_without_chance():
    train, test = views(spec(32), train={"crop": "random_resized", "scale": [0.5, 1.0]}, test={"crop": "whole"})
    assert train.scale == (0.5, 1.0) and train.has_chance and not test.has_chance
    with pytest.raises(UserError, match="must be deterministic"):
        views(spec(32), train={"crop": "whole"}, test={"crop": "whole", "flip": 0.5})


def test_words_tell_the_transform():
    norm = "[0, 1], mean 0.485/0.456/0.406, std 0.229/0.224/0.225"
    assert View(spec(32)).words() == f"resize to 32 px (bilinear), {norm}"
    centre = View(spec(224), "centre", filter="bicubic", resize=256)
    assert centre.words() == f"shorter side to 256 (bicubic), centre crop 224 px, {norm}"
    assert View(spec(32), "padded", flip=0.5, padding=4).words() == f"pad 4, random crop 32 px, mirror p=0.5, {norm}"
    crop = View(spec(224), "random_resized", flip=0.5, scale=(0.05, 1.0))
    wanted = "random resized crop 224 px (bilinear, scale 0.05–1, ratio 0.75–1.33), mirror p=0.5"
    assert crop.words() == f"{wanted}, {norm}"
    assert math.isclose(crop.ratio[1], 4 / 3)
    assert View(spec(32), randaugment=True).words() == f"resize to 32 px (bilinear), RandAugment m9-mstd0.5, {norm}"


def test_randaugment_comes_after_the_crop_and_is_chance():
    images, view = pixels(32, 32, count=16), View(spec(32), "padded", flip=0.5, padding=4, randaugment=True)
    assert view.has_chance and view.variants == View(spec(32), randaugment=True).variants == ()
    again, plain = random(5), replace(view, randaugment=False)
    levels = rand_augment(plain.geometry(images, again), again)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (view.image.mean, view.image.std))
    torch.testing.assert_close(view(images, random(5)), (levels / 255 - mean) / std)
    assert not torch.equal(view(images, random(5)), plain(images, random(5)))
