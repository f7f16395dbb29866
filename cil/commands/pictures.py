"""Draw pictures of a finished run into its folder.

python scripts/pictures.py outputs/glyphs_10tasks/attriclip/<digest>/seed0
make pictures RUN=…

The pictures depend on the method of the run:
  attriclip   prompts_of_images (a row per image with the prompts it chose),
              images_of_prompts (a row per prompt, over all images), keys (how
              often each key was chosen, per task)
  rapf, awpf  tsne (test images by features of the backbone and of the method)
  dytox       attention (maps of one test image of the first task) and
              nonlocality (mean attention distance after each task)
--task 2 draws features and attention as they were after the second task.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cil.common.errors import UserError
from cil.launch.compose import guarded
from cil.report.finished import load


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--images", type=int, default=6, help="for prompts: number of test images (%(default)s)")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    parser.add_argument("--score", choices=("cosine", "contrast"), default="cosine", help="for prompts: what Grad-CAM explains")
    parser.add_argument("--task", type=int, help="for features and attention: after this task, from 1")
    asked = parser.parse_args(words)
    return guarded(lambda: draw(asked.run, asked.images, asked.format, asked.score, asked.task))


def draw(path: Path, count: int = 6, kind: str = "png", score: str = "cosine", task: int | None = None) -> None:
    if not (path / "DONE").exists():
        raise UserError(f"{path} is no finished run; type make pictures RUN=outputs/…/seed0")
    if count < 1:
        raise UserError(f"--images {count} is not a whole number from 1 on; type --images 6")
    from cil.capabilities import ChoosesPrompts, HasEmbedding, HasMaps
    from cil.engine.build import reopened

    run = load(path)
    tasks = run.summary["tasks"]
    if task is not None and not 1 <= task <= tasks:
        raise UserError(f"--task {task} is not one of the {tasks} tasks of {path}; type --task {tasks}")
    trainer = run.trainer if task is None else reopened(path, task)
    if isinstance(trainer.method, ChoosesPrompts):
        files = prompts(trainer, path, count, kind, score)
    elif isinstance(trainer.method, HasEmbedding):
        files = features(trainer, path, kind, task)
    elif isinstance(trainer.method.backbone, HasMaps):
        files = attention(trainer, path, kind, task)
    else:
        raise UserError(f"{type(trainer.method).__name__} has no prompts, adapted features or attention maps "
                        "to draw; type the folder of a run of method=attriclip, rapf, awpf or dytox")  # fmt: skip
    for file in files:
        print(file)


def prompts(trainer: Any, path: Path, count: int, kind: str, score: str) -> Iterator[Path]:
    import torch

    from cil.pictures.prompts import draw_prompts, draw_usage

    tasks = trainer.scenario[:: max(1, len(trainer.scenario) // count)][:count]
    singles = [task.test.batch(torch.tensor([len(task.test) // 2]), trainer.machine.device) for task in tasks]
    names = [trainer.scenario.class_names[int(batch.labels)] for batch in singles]
    images, folder = torch.cat([batch.images for batch in singles]), path / "pictures"
    files = folder / f"prompts_of_images.{kind}", folder / f"images_of_prompts.{kind}"
    draw_prompts(files, trainer.method, images, names, score == "contrast")
    shares = {event["task"]: event["chosen %"] for event in load(path).events if "chosen %" in event}
    draw_usage(folder / f"keys.{kind}", list(shares.values()), "how many images chose each key in training")
    words = ", before the placeholder words of the others" if getattr(trainer.method, "placeholders", False) else ""
    print(f"{len(tasks)} images, Grad-CAM of the {score}; prompts encoded alone{words}")
    yield from (*files, folder / f"keys.{kind}")


def features(trainer: Any, path: Path, kind: str, task: int | None) -> Iterator[Path]:
    import torch
    import torch.nn.functional as F

    from cil.pictures.tsne import draw_planes

    seen = trainer.scenario[: len(trainer.method.tasks)]
    with torch.no_grad():
        frozen = torch.cat([trainer.frozen.of(one.test) for one in seen])
        sets = {"CLIP": F.normalize(frozen, dim=1), type(trainer.method).__name__: trainer.method.embedded(frozen)}
    file = path / "pictures" / (f"tsne.{kind}" if task is None else f"tsne_task_{task:02d}.{kind}")
    draw_planes(file, sets, torch.cat([one.test.labels for one in seen]).to(frozen.device), trainer.scenario.class_names)
    print(f"t-SNE of {len(frozen)} test images of {len(seen)} tasks")
    yield file


def attention(trainer: Any, path: Path, kind: str, task: int | None) -> Iterator[Path]:
    import torch

    from cil.modules.growing.attention import nonlocality
    from cil.pictures.locality import draw_maps, draw_nonlocality, everywhere

    backbone, test = trainer.method.backbone, trainer.scenario[0].test
    shown = test.batch(torch.arange(len(test)), trainer.machine.device).images.flatten(1).std(1)
    batch = test.batch(shown.argmax()[None].cpu(), trainer.machine.device)  # the image with the most contrast
    with torch.no_grad():
        maps = [own[0] for own in backbone.maps(batch.images)]
    after = f"after task {task or len(trainer.scenario)} of {len(trainer.scenario)}"
    title = (
        f"{trainer.scenario.class_names[int(batch.labels)]}: where the framed patch looks {after}; distance over all patches"
    )
    file = path / "pictures" / (f"attention.{kind}" if task is None else f"attention_task_{task:02d}.{kind}")
    far, norm = [nonlocality(own, backbone.side) for own in maps], (backbone.image.mean, backbone.image.std)
    draw_maps(file, batch.images[0], maps, far, norm, title)
    yield file
    if found := nonlocality_of(path):
        file = path / "pictures" / f"nonlocality.{kind}"
        draw_nonlocality(file, {type(trainer.method).__name__: {path.parent.name: [found]}}, everywhere(backbone.side))
        yield file


def nonlocality_of(path: Path) -> list[list[float]]:
    """The mean attention distance after each task (rows), of each block (columns)."""
    return [event["nonlocality"] for event in load(path).events if "nonlocality" in event]
