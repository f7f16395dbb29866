"""Finishes a run: writes summary.json, the pictures and DONE, and prints the accuracy table."""

import shlex
import sys

from cil.common import places
from cil.common.tables import matrix_text, one_line
from cil.engine.run_warnings import of_accuracies
from cil.engine.trainer import Trainer
from cil.metrics import COUNTS, DEFINITIONS
from cil.pictures.accuracy import draw_curve, draw_matrix
from cil.runs.identity import peak_memory_mib
from cil.runs.objective import CHOSEN_ON_TEST
from cil.runs.run_folder import address, digest, names
from cil.runs.settings import MEANINGLESS


def finish(trainer: Trainer, config: dict) -> None:
    run, log, machine = trainer.run, trainer.log, trainer.machine
    scenario, method = names(config)
    several = trainer.shared.size
    command = ["torchrun", "--standalone", f"--nproc-per-node={several}", "run.py"] if several > 1 else places.entry()
    blocks = trainer.frozen.digests() if trainer.frozen else {}  # cached features that other runs may use too
    sizes = [len(task.classes) for task in trainer.scenario]
    warnings = [*trainer.doubts.told(), *of_accuracies(trainer.matrices["class_il"], trainer.matrices["task_il"], sizes)]
    warnings = [MEANINGLESS] if config.get("debug") else warnings
    warnings += [CHOSEN_ON_TEST] if config.get("objective") else []
    summary = {
        "scenario": scenario,
        "method": method,
        "tasks": len(trainer.scenario),
        "seed": config["seed"],
        "digest": digest(config),
        "address": address(config),
        "command": shlex.join([*command, *sys.argv[1:]]),
        **{name: matrix.summary() for name, matrix in trainer.matrices.items()},
        "definitions": DEFINITIONS | {name: text for name, text in COUNTS.items() if name in trainer.matrices},
        "warnings": warnings,
        "identity": {**trainer.identity, **trainer.processes[-1], **({"feature_blocks": blocks} if blocks else {})},
        "data_listing": trainer.scenario.images.listing,
        "data_sizes": trainer.scenario.images.sizes,
        "data_counts": trainer.scenario.images.counts,
        "earlier_processes": trainer.processes[:-1],  # earlier processes of this run, if their software or hardware differed
        "trained_parameters": trainer.trained_parameters,
        "image_encodes": trainer.encodes.total,
        "seconds": round(trainer.seconds, 1),
        "peak_memory_mib": peak_memory_mib(machine.device),
        "config": config,
    }
    pictures = run.path / "pictures"
    curves = {COUNTS[name].removeprefix("among "): matrix.curve() for name, matrix in trainer.matrices.items()}
    draw_curve(pictures / "accuracy.png", curves, f"{method} on {scenario}, seed {config['seed']}")
    draw_matrix(pictures / "matrix.png", trainer.matrix, f"{method} on {scenario}, seed {config['seed']}: percent correct")
    run.finish(summary)
    log.say(matrix_text(trainer.matrix))
    log.say(one_line(summary))
    for warning in warnings:
        log.say(f"warning: {warning}")
    log.say(f"files: {run.path}")
