"""Choose the characters of Split-Glyphs: 100 for the benchmark, the rest for
pre-training. The lists are cil/data/datasets/glyphs/{classes,base}.txt.

python scripts/choose_glyphs.py            # write the lists
python scripts/choose_glyphs.py --check    # compare with the existing lists

Candidates are the characters that all 12 fonts have and that are letters,
digits, punctuation marks or symbols (no spaces, combining marks or modifiers).
If two characters look alike (their drawings differ, on average over the fonts,
by less than a tenth of their ink), only the one with the lowest code point is
kept. The 100 classes are drawn at random among the characters whose name uses
only words that at least three other remaining names use too, so that each word
of a class name occurs in pre-training.
"""

import argparse
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.data.datasets import glyphs

ALIKE, CLASSES, SEED, FAMILIAR = 0.10, 100, 0, 3
STANDS_ALONE = {"Lu", "Ll", "Lt", "Lo", "Nd", "No", "Po", "Ps", "Pe", "Pd", "Pi", "Pf", "Pc", "Sm", "So", "Sc"}
FACES = glyphs.TRAIN_FACES + glyphs.TEST_FACES


def candidates() -> list[int]:
    from matplotlib.ft2font import FT2Font

    in_all = set.intersection(*(set(FT2Font(glyphs._font(face).path).get_charmap()) for face in FACES))
    named = (p for p in sorted(in_all) if unicodedata.name(chr(p), "") and p != 0xFFFC)  # U+FFFC is blank
    return [p for p in named if unicodedata.category(chr(p)) in STANDS_ALONE]


def without_lookalikes(points: list[int]) -> list[int]:
    """Remove every character that looks like one with a lower code point."""
    ink = [torch.from_numpy(np.stack([glyphs.draw(p, face) for p in points])).float() / 255 for face in FACES]
    pooled = [F.avg_pool2d(face[:, None], 8, divisor_override=1).flatten(1) for face in ink]
    # The difference of pooled drawings is a lower bound of the full difference and cheap for all pairs.
    bound = sum(torch.cdist(b, b, p=1) / larger(f.sum((1, 2)), f.sum((1, 2))) for b, f in zip(pooled, ink)) / len(FACES)
    kept: list[int] = []
    for place in range(len(points)):
        near = [other for other in kept if bound[place, other] < ALIKE]
        full = sum(
            (f[near] - f[place]).abs().sum((1, 2)) / larger(f[near].sum((1, 2)), f[place].sum()[None])[:, 0] for f in ink
        )
        if not near or not (full / len(FACES) < ALIKE).any():
            kept.append(place)
    return [points[place] for place in kept]


def larger(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The larger of each pair, of shape (len(a), len(b)), at least 1."""
    return torch.maximum(a[:, None], b[None]).clamp(min=1)


def choose(points: list[int]) -> tuple[list[int], list[int]]:
    """Split the characters into those of the benchmark and the others."""
    uses = Counter(word for p in points for word in set(glyphs.name(p).split()))
    chosen: list[int] = []
    for p in np.random.RandomState(SEED).permutation(points).tolist():
        words = set(glyphs.name(p).split())
        if len(chosen) < CLASSES and all(uses[word] > FAMILIAR for word in words):
            chosen.append(p)
            uses.subtract(words)
    return sorted(chosen), sorted(set(points) - set(chosen))


def text(points: list[int], what: str) -> str:
    head = f"# {len(points)} characters: {what}; written by scripts/choose_glyphs.py\n"
    return head + "".join(f"U+{p:04X} {glyphs.name(p)}\n" for p in points)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    chosen, base = choose(without_lookalikes(candidates()))
    wanted = {"classes": text(chosen, "the classes of Split-Glyphs"), "base": text(base, "for pre-training only")}
    for which, content in wanted.items():
        file = glyphs.FOLDER / f"{which}.txt"
        if not check:
            file.write_text(content)
        elif file.read_text() != content:
            print(f"{file.name} is not what this script writes")
            return 1
    print(f"{len(chosen)} classes, {len(base)} base characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
