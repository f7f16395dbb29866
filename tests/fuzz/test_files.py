"""A file with changed bytes is refused in one sentence, made again, or read as if nothing had changed; never otherwise."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cil.backbones.weights import load
from cil.common.errors import UserError
from cil.common.files import keep_or_make
from cil.data.archives import members
from cil.data.image_store import Photos, Size
from cil.runs.run_folder import RunDir
from tests.data.datasets import miniature
from tests.fuzz.record import TIMES, record

COUNT = 200 * TIMES


def mutated(whole: bytes, chance: Random) -> bytes:
    """One to three changes: a bit, a byte, a stretch of zeros, a cut, a repetition."""
    changed = bytearray(whole)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        place = chance.randrange(len(changed)) if chance.random() < 0.7 else -chance.randrange(1, min(400, len(changed)))
        kind = chance.choice(("bit", "byte", "zeros", "cut", "again", "more"))
        if kind == "bit":
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == "byte":
            changed[place] = chance.randrange(256)
        elif kind == "zeros":
            changed[place : place + 16] = bytes(len(changed[place : place + 16]))
        elif kind == "cut":
            del changed[place:]
        elif kind == "again":
            changed[place:place] = changed[place : place + 8]
        else:
            changed += bytes(chance.randrange(1, 64))
        if not changed:
            break
    return bytes(changed)


def each(what: str, file: Path, seed: int, look: Callable[[], bool]) -> None:
    """Every mutation of `file`: `look` says whether what was read is right, or raises a UserError."""
    whole, chance, refused, wrong = file.read_bytes(), Random(seed), 0, []
    for number in range(COUNT):
        changed = mutated(whole, chance)
        file.write_bytes(changed)
        try:
            if not look() and changed != whole:
                wrong.append(f"{number}: other content was read")
        except UserError as mistake:
            refused += 1
            if "\n" in str(mistake):
                wrong.append(f"{number}: more than a line")
        except Exception as error:
            wrong.append(f"{number}: {error!r:.150}")
        file.write_bytes(whole)
    record(what, tried=COUNT, refused=refused, otherwise=len(wrong))
    assert not wrong, "\n".join(wrong)


def test_checkpoints(tmp_path):
    run, file = RunDir(tmp_path), tmp_path / "task_03.pt"
    state = {
        "task": 3,
        "method": {"w": torch.randn(20, 30), "b": torch.arange(9)},
        "identity": {"weights": "x"},
        "seconds": 1.5,
    }
    torch.save(state, file)

    def look() -> bool:
        got = run.load(file)
        return got["seconds"] == 1.5 and all(torch.equal(got["method"][key], state["method"][key]) for key in ("w", "b"))

    each("checkpoints", file, 0, look)


@pytest.mark.parametrize("ending", ["pt", "safetensors", "script"])
def test_weights(tmp_path, ending):
    """Their sha256 is in the configuration, in the registry or in the run's record: here it is given."""
    torch.manual_seed(0)
    made, other = torch.nn.Linear(30, 20), torch.nn.Linear(30, 20)
    file = tmp_path / f"w.{'safetensors' if ending == 'safetensors' else 'pt'}"
    if ending == "pt":
        torch.save(made.state_dict(), file)
    elif ending == "safetensors":
        save_file(made.state_dict(), file)
    else:
        torch.jit.script(made).save(str(file))
    sha256 = load(other, str(file), None, None)["sha256"]
    assert torch.equal(other.weight, made.weight)
    wanted, known = made.weight.detach(), [sha256]

    def look() -> bool:
        identity = load(other, str(file), known[0], None)
        return torch.equal(other.weight, wanted) or identity["sha256"] != sha256

    each("weights whose digest is known", file, 1, look)
    known[0] = None  # then the record says that it was another file
    each("weights of an unknown digest", file, 2, look)


def test_decoded_photographs(tmp_path):
    files = {f"{k}.jpg": miniature.jpeg(k, size) for k, size in enumerate([(30, 20), (24, 24), (16, 40)])}
    found = members(miniature.zipped(files, tmp_path / "photos.zip"))
    names = sorted(found)
    listing = Photos(tmp_path / "decoded", names, [found[name] for name in names], None, torch.arange(len(names)))
    wanted, truth = listing.decoded(Size()).digest(), [miniature.pixels(files[name]) for name in names]
    (file,) = (tmp_path / "decoded").rglob("*.part")

    def look() -> bool:
        pixels = listing.decoded(Size())
        same = all(np.array_equal(pixels.store.photo(row), photo) for row, photo in enumerate(truth))
        return same and pixels.digest() == wanted

    each("decoded photographs", file, 3, look)


def test_cached_features(tmp_path):
    file, made = tmp_path / "00000.safetensors", {"results": torch.randn(25, 16, generator=torch.Generator().manual_seed(0))}
    keep_or_make(file, lambda: made, "about")
    each("cached features", file, 4, lambda: torch.equal(keep_or_make(file, lambda: made, "about")["results"], made["results"]))
