"""Pictures of a finished run: which prompts its images choose, and where they look for them.

python scripts/pictures.py outputs/glyphs_10tasks/attriclip/<digest>/seed0      # or: make pictures RUN=…

They lie in the run's folder: prompts_of_images.png (a row an image, under the prompts that it chose), images_of_prompts.png
(a row a prompt, over all images) and keys.png (how often each key was chosen, task by task).
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.mistakes import Mistake
from scripts.compose import guarded

SCORES = ("cosine", "contrast")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=6, help="test images, each of another task")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    parser.add_argument("--score", choices=SCORES, default="cosine", help="contrast: against all other prompts")
    asked = parser.parse_args(words)
    return guarded(lambda: draw(asked.run, asked.images, asked.format, asked.score))


def draw(path: Path, count: int, kind: str, score: str) -> None:
    if not (path / "DONE").exists():
        raise Mistake(f"{path} is no finished run; type make pictures RUN=outputs/…/seed0")
    if count < 1:
        raise Mistake(f"--images {count} is not a whole number from 1 on; type --images 6")
    import torch

    from cil.build import reopened
    from cil.pictures.prompts import draw_prompts, draw_usage

    trainer = reopened(path)
    tasks = trainer.scenario[:: max(1, len(trainer.scenario) // count)][:count]
    singles = [task.test.batch(torch.tensor([len(task.test) // 2]), trainer.machine.device) for task in tasks]
    names = [trainer.scenario.class_names[int(batch.labels)] for batch in singles]
    folder = path / "pictures"
    files = tuple(folder / f"{name}.{kind}" for name in ("prompts_of_images", "images_of_prompts", "keys"))
    draw_prompts(files[:2], trainer.method, torch.cat([batch.images for batch in singles]), names, score == "contrast")
    events = map(json.loads, (path / "events.jsonl").read_text().splitlines())
    shares = {event["task"]: event["chosen %"] for event in events if "chosen %" in event}
    draw_usage(files[2], list(shares.values()), "how many images chose each key in training")
    print(f"{len(tasks)} images, Grad-CAM of the {score}; prompts encoded alone" + with_words(trainer.method))
    for file in files:
        print(file)


def with_words(method: object) -> str:
    return ", before the placeholder words of the others" if getattr(method, "placeholders", False) else ""


if __name__ == "__main__":
    sys.exit(main())
