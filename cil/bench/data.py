"""Benchmarks of data loading: batches compared with Pillow one image at a time, and the time from archive to first batch."""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cil.bench.harness import clock, figures, interleaved
from cil.common.seeding import generator
from cil.data.image_store import Pixels
from cil.data.images import LabelledImages
from cil.data.transforms.views import ImageSpec, View
from cil.engine.build import build_scenario

CPU = torch.device("cpu")
LARGE = 224  # target size of the rows that resize, in pixels
FIRST_BATCH = 128


def data(images: LabelledImages, *, batch: int, rounds: int) -> Iterator[dict]:
    """Times batches of stored images against Pillow and torchvision on single images, and the first batch of an epoch."""
    from torchvision import transforms

    plain = ImageSpec(LARGE, (0.0,) * 3, (1.0,) * 3)
    grow = transforms.Compose([transforms.Resize((LARGE, LARGE)), transforms.ToTensor()])
    chance = (transforms.RandomResizedCrop(LARGE), transforms.RandomHorizontalFlip(), transforms.ToTensor())
    pixels: Any = images.pixels
    uniform = not isinstance(pixels, Pixels) or pixels.store.uniform
    side = pixels.shape[1]
    stored = str(side) if uniform else "many sizes"
    cropped, whole = (replace(images, view=view) for view in (View(plain, "random_resized", 0.5), View(plain)))
    what = f"random resized crop {stored}→{LARGE}, mirror"
    yield data_row(what, cropped, transforms.Compose(chance), batch, rounds)
    yield data_row(f"resize {stored}→{LARGE}", whole, grow, batch, rounds)
    if not uniform:
        return
    same = replace(images, view=View(replace(plain, size=side)))
    waits = [clock(lambda: first_batch(same), CPU)[1] for _ in range(rounds + 1)][1:]
    row = data_row(f"no resize, {stored} px", same, transforms.ToTensor(), batch, rounds)
    yield {**row, "first_batch": FIRST_BATCH, "first_batch_ms": figures(1000 * statistics.median(waits))}


def data_row(name: str, images: LabelledImages, reference: Callable, batch: int, rounds: int) -> dict:
    """One row of results. `ratio_*` includes stacking the reference's single images into a batch; `ratio_*_loose` does not."""
    from PIL import Image

    rows, cpu = torch.arange(min(batch, len(images))), CPU
    pixels: Any = images.pixels
    chosen = pixels[images.rows[rows]]
    single = chosen.permute(0, 1, 3, 2).contiguous().numpy() if isinstance(chosen, Tensor) else [np.array(p) for p in chosen]
    random = generator(0, "bench")

    def loose() -> list[Tensor]:
        return [reference(Image.fromarray(pixels)) for pixels in single]

    stacked, apart = (
        interleaved(call, lambda: images.batch(rows, random=random), rounds, cpu)
        for call in (lambda: torch.stack(loose()), loose)
    )
    seconds = statistics.median(clock(lambda: images.batch(rows, random=random), cpu)[1] for _ in range(rounds))
    return {
        "row": "data", "what": name, "batch": len(rows), "against": "images/s of torchvision, image by image",
        "ratio_cpu": figures(stacked.ratio_cpu), "ratio_wall": figures(stacked.ratio_wall),
        "ratio_cpu_loose": figures(apart.ratio_cpu), "ratio_wall_loose": figures(apart.ratio_wall),
        "images_per_second": figures(len(rows) / seconds), "threads": torch.get_num_threads(), "rounds": rounds,
    }  # fmt: skip


def first_batch(images: LabelledImages) -> Tensor:
    """Shuffle the images and make the first training batch, as the trainer does at the start of an epoch."""
    order = torch.randperm(len(images), generator=generator(0, "order"))
    return images.batch(order[:FIRST_BATCH], random=generator(0, "augment")).images


def archive(config: dict, backbone: nn.Module) -> Iterator[dict]:
    """Times the way from a dataset's files to the first batch, without and with decoded images, in a temporary data root."""
    with tempfile.TemporaryDirectory() as folder:
        for entry in Path(config["data"]["root"]).iterdir():
            if entry.name != "decoded" and not entry.name.startswith("."):
                (Path(folder) / entry.name).symlink_to(entry.resolve())
        own = {**config, "data": {**config["data"], "root": folder, "decoded": f"{folder}/decoded"}}
        for state in ("cold: decoded", "warm: mapped"):
            before = anonymous_mib()
            _, seconds = clock(lambda: first_batch(next(iter(build_scenario(own, backbone))).train), CPU)
            store = sum(file.stat().st_size for file in Path(folder).glob("decoded/*/*/*.part"))
            yield {"row": "data", "what": f"from the files to the first batch, {state}", "seconds": figures(seconds),
                   "memory_mib": anonymous_mib() - before, "store_mib": store // 2**20,
                   "threads": torch.get_num_threads()}  # fmt: skip


def anonymous_mib() -> int:
    """Private memory of this process in MiB, without pages of memory-mapped files, which the system can drop."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024
