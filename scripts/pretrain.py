"""Pre-train a tiny backbone on the base characters of the glyph alphabet and write its weights and their record.

    python scripts/pretrain.py --backbone vit_tiny --steps 3000
    python scripts/pretrain.py --backbone clip_tiny --steps 4800

Writes <out>/<backbone>.safetensors (half precision) and <out>/<backbone>.json (command, seed, digests, results).
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=["vit_tiny", "clip_tiny"], required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--out", type=Path, default=ROOT / "cil" / "weights")
    asked = parser.parse_args()

    import torch
    from omegaconf import OmegaConf
    from safetensors.torch import save_file

    from cil.build import make
    from cil.datasets.glyphs import code_points
    from cil.files import replace_file, write_json
    from cil.pretrain import Recipe, examine, pretrain, stored

    if asked.threads:
        torch.set_num_threads(asked.threads)
    node = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "backbone" / f"{asked.backbone}.yaml"))
    data = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "dataset" / "glyphs.yaml"))
    node["weights"] = node["sha256"] = None
    torch.manual_seed(asked.seed)
    backbone, images = make(node, "backbone"), make(data, "dataset", root="data")
    started = time.perf_counter()
    pretrain(backbone, Recipe(asked.steps, seed=asked.seed), lambda line: print(line, flush=True))
    seconds = round(time.perf_counter() - started)
    file = asked.out / f"{asked.backbone}.safetensors"
    with replace_file(file) as temporary:
        save_file(stored(backbone), temporary)
    node["weights"] = str(file)
    record = {
        "command": f"python scripts/pretrain.py --backbone {asked.backbone} --steps {asked.steps} --seed {asked.seed}",
        "seed": asked.seed,
        "base_characters": len(code_points("base")),
        "data_digest": images.digest,
        "weights_sha256": (shipped := make(node, "backbone")).identity["sha256"],
        "percent_on_the_benchmark": examine(shipped.eval(), images),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    write_json(asked.out / f"{asked.backbone}.json", record)
    print(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
