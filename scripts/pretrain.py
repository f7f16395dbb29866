"""Pre-train a tiny backbone on the base characters of Split-Glyphs.

python scripts/pretrain.py --backbone vit_tiny --steps 2400
python scripts/pretrain.py --backbone clip_tiny --steps 4800
python scripts/pretrain.py --backbone clip_tiny --examine    # measure only

Writes <out>/<backbone>.safetensors (half precision) and <out>/<backbone>.json
(command, seed, digests and results).
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=["vit_tiny", "clip_tiny"], required=True)
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--examine", action="store_true", help="measure the existing weights, without training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: the default of torch")
    parser.add_argument("--out", type=Path, default=ROOT / "cil" / "weights")
    asked = parser.parse_args()
    if (asked.steps is None) != asked.examine:
        parser.error("give --steps N to train, or --examine to measure")

    import torch
    from omegaconf import OmegaConf

    from cil.common.files import write_json
    from cil.engine.build import make
    from cil.pretraining.glyphs import all_drawings, examine

    if asked.threads:
        torch.set_num_threads(asked.threads)
    node: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "backbone" / f"{asked.backbone}.yaml"))
    node |= {"weights": str(asked.out / f"{asked.backbone}.safetensors"), "sha256": None}
    file = asked.out / f"{asked.backbone}.json"
    record = json.loads(file.read_text()) if asked.examine else train(asked, node)
    glyphs: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "dataset" / "glyphs.yaml"))
    images = make(glyphs, "dataset", root="data")
    backbone = make(node, "backbone").eval()
    record["weights_sha256"] = backbone.identity["sha256"]
    record["data_digest"] = hashlib.sha256(all_drawings().tobytes()).hexdigest()[:16]
    record["benchmark_digest"] = images.digest
    record["percent_on_the_benchmark"] = examine(backbone, images)
    write_json(file, record)
    print(json.dumps(record, indent=2))
    return 0


def train(asked: argparse.Namespace, node: dict) -> dict:
    """Train the backbone and write its weights; returns the part of the record that says how they were made."""
    import torch
    from safetensors.torch import save_file

    from cil.common.files import replace_file
    from cil.data.datasets.glyphs import code_points
    from cil.engine.build import make
    from cil.pretraining.glyphs import Recipe, pretrain, stored

    torch.manual_seed(asked.seed)
    backbone, started = make({**node, "weights": None}, "backbone"), time.perf_counter()
    pretrain(backbone, Recipe(asked.steps, seed=asked.seed), lambda line: print(line, flush=True))
    with replace_file(Path(node["weights"])) as temporary:
        save_file(stored(backbone), temporary)
    return {
        "command": f"python scripts/pretrain.py --backbone {asked.backbone} --steps {asked.steps} --seed {asked.seed}",
        "seed": asked.seed,
        "base_characters": len(code_points("base")),
        "seconds": round(time.perf_counter() - started),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
