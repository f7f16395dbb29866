"""Go on with pre-training from a file on photographs: the last blocks of ViT-S/14 on the first half of TinyImageNet.

python scripts/recover.py --objective labels --body FILE --root DIR --frozen 11 --epochs 10      # with labels
python scripts/recover.py --objective crops --body FILE --root DIR --frozen 11 --epochs 10       # without

DIR holds tiny-imagenet-200.zip or its folder. Writes <out>/<name>/model.safetensors (half precision) and record.json
(command, seed, digests, what nearest class means reach on the second half before and after) and, while it runs,
checkpoint.pt and log.jsonl beside them and <out>/tokens; the same command goes on after a kill, to the same bits.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Literal

from cil.common import places
from cil.common.errors import UserError
from cil.launch.compose import guarded

NAMES = {"labels": "vit_s14_photographs", "crops": "vit_s14_photographs_selfsup"}
MEASURED = {"train_per_class": 20, "test_per_class": 10}  # photographs of each unseen class that the measure takes


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=list(NAMES), required=True)
    parser.add_argument("--body", type=Path, required=True, help="weights to go on from, by timm's names")
    parser.add_argument("--root", type=Path, default=places.data(), help="folder that holds the archive")
    parser.add_argument("--md5", help="of the archive; none: any will do")
    parser.add_argument("--per-class", type=int, default=250, help="photographs of each class to learn from")
    parser.add_argument("--measure", type=int, nargs=2, default=list(MEASURED.values()), metavar=("TRAIN", "TEST"))
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--frozen", type=int, required=True, help="blocks that stay as the file has them")
    parser.add_argument("--variants", type=int, default=2, help="crops of each photograph")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--begin", choices=["identity", "file"], default="identity", help="of the trained blocks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--out", type=Path, default=places.data() / "weights")
    parser.add_argument("--name", help="of the weights; by default the registered name")
    asked = parser.parse_args(argv)
    if asked.objective == "crops" and asked.variants < 2:
        parser.error("--objective crops needs --variants 2 or more: it compares two crops of each photograph")
    asked.name = asked.name or NAMES[asked.objective]
    return asked


def main(argv: list[str] | None = None) -> int:
    asked = arguments(argv)
    return guarded(lambda: work(asked), "type --out DIR")


def work(asked: argparse.Namespace) -> None:
    import torch
    import yaml

    from cil.backbones.formats import fill
    from cil.data.image_store import Size
    from cil.data.transforms.views import View
    from cil.engine.build import make
    from cil.pretraining.recovery import Recipe, class_tokens, features, kept_tokens, nearest_class_mean, recover

    if asked.threads:
        torch.set_num_threads(asked.threads)
    node = yaml.safe_load((places.CONF / "backbone" / "vit_s14_photographs.yaml").read_text())
    backbone = make({**node, "weights": None, "sha256": None}, "backbone").eval()
    if not 0 <= asked.frozen < backbone.depth:
        raise UserError(f"--frozen {asked.frozen} leaves no block to train; type --frozen {backbone.depth - 1} or less")
    fill(backbone.trunk, asked.body, str(asked.body))
    body = hashlib.sha256(asked.body.read_bytes()).hexdigest()
    recipe = Recipe(asked.objective, asked.epochs, asked.frozen, asked.variants, asked.seed, asked.batch_size, asked.lr,
                    begin=asked.begin)  # fmt: skip
    folder, started = asked.out / asked.name, time.perf_counter()

    def tokens(photos, view, variants):
        about = f"{body} {photos_digest(photos)}"
        return kept_tokens(asked.out / "tokens", backbone, photos.decoded(Size()), view, about=about, frozen=asked.frozen,
                           variants=variants, seed=asked.seed, say=say)  # fmt: skip

    learned = photographs(asked, "first", asked.per_class, 1)
    drawn = View(backbone.image, "random_resized", flip=0.5, scale=recipe.crop, filter="bicubic")
    kept = tokens(learned.train, drawn, asked.variants)
    unseen = photographs(asked, "second", *asked.measure)
    plain = View(backbone.image, "whole", filter="bicubic")
    measured = [tokens(split, plain, 1) for split in (unseen.train, unseen.test)]

    def measure(of) -> float:
        one, other = map(of, measured)
        return nearest_class_mean(one, unseen.train_labels, other, unseen.test_labels)

    percent = {"frozen_class_token": measure(class_tokens), "body": measure(lambda t: features(backbone, t, asked.frozen))}
    say(f"nearest class mean on the unseen half before: {percent}")
    recover(backbone, kept, learned.train_labels, recipe, folder, f"{body} {photos_digest(learned.train)}")
    percent["recovered"] = measure(lambda t: features(backbone, t, asked.frozen))
    write(asked, recipe, backbone, folder, body, percent, round(time.perf_counter() - started))


def photographs(asked: argparse.Namespace, half: Literal["first", "second"], train: int, test: int):
    from cil.data.datasets import tinyimagenet

    return tinyimagenet.half(str(asked.root), md5=asked.md5, half=half, train_per_class=train, test_per_class=test,
                             shorter_side=None)  # fmt: skip


def photos_digest(photos) -> str:
    """Of the photographs' names in their order."""
    return hashlib.sha256("\n".join(photos.names[row] for row in photos.rows.tolist()).encode()).hexdigest()[:16]


def write(asked, recipe, backbone, folder: Path, body: str, percent: dict, seconds: int) -> None:
    """The weights and their record."""
    from dataclasses import asdict

    import torch
    from safetensors.torch import save_file

    from cil.common.files import replace_file, write_json

    file = folder / "model.safetensors"
    with replace_file(file) as temporary:
        save_file({key: value.half().contiguous() for key, value in backbone.trunk.state_dict().items()}, temporary)
    told = ("objective", "frozen", "epochs", "per_class", "variants", "batch_size", "lr", "begin", "seed")
    words = [f"--{name.replace('_', '-')} {getattr(asked, name)}" for name in told]
    record = {
        "command": f"python scripts/recover.py {' '.join(words)} --body FILE --root DIR",
        "recipe": asdict(recipe),
        "body_sha256": body,
        "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "photographs_per_class": asked.per_class,
        "measured_per_class": dict(zip(MEASURED, asked.measure, strict=True)),
        "percent_on_the_unseen_half": percent,
        "seconds_of_the_last_start": seconds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_json(folder / "record.json", record)
    say(json.dumps(record, indent=2))


def say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)
