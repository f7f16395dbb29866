"""From a plain configuration to objects: `_target_` names the code, the other keys are its arguments."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
import yaml

from cil.backbones.compiled import Passes, divided, plainly
from cil.capabilities import HasFrozenStage, HasPasses
from cil.common.errors import UserError
from cil.common.files import is_writable
from cil.common.ranges import fits
from cil.common.seeding import seed_everything
from cil.common.signals import StopRequest
from cil.data.class_names import named
from cil.data.datasets import places
from cil.data.frozen_features import BLOCK, FrozenResults, Shelf
from cil.data.image_store import Size, unwritable
from cil.data.images import Images
from cil.data.scenario import Scenario
from cil.data.transforms.views import ImageSpec
from cil.engine import checkpoint
from cil.engine.processes import IN_PARTS, divides, joined, normalises, own_device
from cil.engine.recipe import Machine, Recipe
from cil.engine.targets import OPTIMIZERS, find, make
from cil.engine.trainer import Trainer
from cil.method import Method
from cil.modifier import Modifier
from cil.modules.heads.frozen_images import FrozenImages
from cil.modules.projection import Projection
from cil.runs.console import Silent
from cil.runs.identity import of_inputs, of_machine
from cil.runs.precision import settled, use
from cil.runs.run_folder import RunDir, names
from cil.runs.settings import MEANINGLESS

Made = TypeVar("Made")
BATCH, BATCHES = 8, 2  # with debug=true: images of a batch, batches of a phase


def experiment(
    config: dict, run: RunDir, device: torch.device, stop: StopRequest, like: Trainer | None = None,
    scenario: Callable[[ImageSpec], Scenario] | None = None,
) -> Trainer:  # fmt: skip
    """Everything that a configuration describes, ready to fit; nothing has been trained or written yet.

    `like`: a trainer of the same data and the same frozen backbone, which are then not made again. `scenario` makes another
    scenario than the configuration's for the input of the backbone.
    """
    config = settled(config)
    seed, machine = config["seed"], config["machine"]
    tf32, compiled = machine.get("tf32") == "on", machine.get("compile") == "on"
    notes = use(device, machine["precision"], tf32)
    for place in ("method", "backbone", "scenario", "dataset", "augment", "schedule", "log"):
        find(config[place].get("_target_"), place)  # a wrong name is told before anything is loaded
    images = None if like or scenario else checked_images(config)  # before the backbone, which takes longer
    seed_everything(seed, "build")
    if like:
        backbone, tasks = like.method.backbone, like.scenario
        make({**config["backbone"], "weights": None, "sha256": None}, "backbone")  # draws the numbers that a run draws alone
    else:
        backbone = make(config["backbone"], "backbone", root=config["data"]["weights"])
        tasks = scenario(backbone.image) if scenario else build_scenario(config, backbone, images)
    method = made(Method, config["method"], "method", backbone)
    modifiers = [made(Modifier, node, f"modifier.{name}") for name, node in (config.get("modifier") or {}).items()]
    typed = zip(config.get("modifier") or (), modifiers, strict=True)
    if len(projecting := [name for name, own in typed if isinstance(own, Projection)]) > 1:
        raise UserError(f"{' and '.join(projecting)} would both project each update; type modifier={projecting[0]}")
    method.suits(tasks)
    for modifier in modifiers:
        modifier.suits(method, tasks)
    kept = {key: machine[key] for key in ("precision", "eval_batch_size", "checkpoint_seconds", "keep_checkpoints")}
    where = Machine(device, **kept, tf32=tf32, compile=compiled,
                    predictions=config.get("save", {}).get("predictions", False))  # fmt: skip
    frozen = like.frozen if like else frozen_results(config, method, device)
    processes, how = joined(device), recipe(config)
    if how.accumulate > 1:
        divides(method, backbone.modules(), IN_PARTS)
    if how.batch_size == 1 and (method.votes or normalises(backbone.modules())):
        why = "the images of a batch vote" if method.votes else f"{type(backbone).__name__} normalises over a batch"
        raise UserError(f"train.batch_size=1 is too few, since {why}; type train.batch_size=2 or more")
    if processes.size > 1:
        divides(method, backbone.modules())
        processes.same(method)
    log = make(config["log"], "log") if processes.rank == 0 else Silent()
    log.open(run.path)
    notes += [MEANINGLESS] if config.get("debug") else []
    notes += passes(method, how, where, processes.size, log.say)
    for line in (*tasks.notes, *notes):
        log.say(line)
    process = of_machine(device, where.precision, processes.size, tf32=tf32, compiled=compiled)
    return Trainer(method, tasks, modifiers, how, where, seed=seed, run=run, log=log, stop=stop, frozen=frozen,
                   identity=of_inputs(backbone, tasks), process=process, processes=processes)  # fmt: skip


def made(kind: type[Made], node: dict, where: str, *given: object) -> Made:
    """What a node of the configuration makes, after a check that it derives from the class of its kind."""
    found = make(node, where, *given)
    if not isinstance(found, kind):
        name = f"{kind.__module__}.{kind.__name__}"
        raise UserError(f"{where}._target_={node['_target_']} is no {kind.__name__.lower()}; derive its class from {name}")
    return found


def passes(method: Method, how: Recipe, where: Machine, processes: int, say: Callable[[str], None]) -> list[str]:
    """Has the backbone's passes compiled where that is asked for; what the user should know."""
    backbone = method.backbone
    if not isinstance(backbone, HasPasses):
        name = type(backbone).__name__
        return [f"machine.compile=on: {name} has no passes that can be compiled and runs as it is"] if where.compile else []
    backbone.passes = plainly
    if not where.compile:
        return []
    learned = {part for share in divided(how.batch_size, processes) for part in divided(share, how.accumulate)}
    sizes = sorted(learned | {method.test_batch or where.eval_batch_size, BLOCK})
    backbone.passes = Passes(sizes, where.device, say)
    shown = ", ".join(map(str, sizes))
    return [f"machine.compile=on: passes of {shown} images are compiled when they first come, which takes a minute or more"]


def recipe(config: dict) -> Recipe:
    """How phases are trained; `train.first` has what of it differs in the first task."""
    train, optim = config["train"], config["optim"]
    for key in OPTIMIZERS.keys() & optim.keys():  # also where no optimizer reads them
        fits(f"optim.{key}", optim[key], OPTIMIZERS[key])
    none = optim.get("_target_") is None
    optimizer = partial(_no_optimizer, names(config)[1]) if none else make(optim, "optim")
    first = None
    if changes := train.get("first"):  # optional, so that no address holds it where nothing differs
        nodes = {key: {**config[key], **changes.get(key, {})} for key in ("optim", "schedule")}
        first = recipe(
            {**config, **nodes, "train": {**train, "epochs": changes.get("epochs") or train["epochs"], "first": None}}
        )
    schedule, parts = make(config["schedule"], "schedule"), train.get("accumulate") or 1
    size, most = train["batch_size"], None
    if config.get("debug"):
        size, most = min(size, max(BATCH, parts)), BATCHES
    return Recipe(optimizer, schedule, train["epochs"], size, train["clip"], first, parts, most)


def frozen_results(config: dict, method: Method, device: torch.device) -> FrozenResults | None:
    """Of a method with a frozen stage; the backbone's own features lie on a shelf, under all that decides them.

    Weights that no file has differ with the seed: nobody would find their features again.
    """
    if not isinstance(method, HasFrozenStage):
        return None
    folder, weights, shelf = config["data"].get("features"), method.backbone.identity["sha256"], None
    if type(method).frozen_stage is FrozenImages.frozen_stage and folder is not None and weights is not None:
        settings = {key: value for key, value in config["backbone"].items() if key not in ("weights", "sha256")}
        products = {key: config["machine"][key] for key in ("precision", "tf32") if key in config["machine"]}
        products |= {} if method.projected else {"projected": False}
        shelf = Shelf(Path(folder), {"settings": settings, "weights": weights, **products})
    return FrozenResults(method.frozen_stage, device, shelf)


def reopened(path: Path, task: int | None = None, asked: dict | None = None) -> Trainer:
    """The trainer of a finished run, as it was after a task or the last one; nothing is written there.

    It computes in float32 on any device, or as the run did where `asked` is given, a configuration with the run's address.
    """
    config, done = asked or yaml.safe_load((path / "config.yaml").read_text()), RunDir(path)
    file = done.newest if task is None else done.after(task)
    if file is None:
        kept = "" if task is None else f" after task {task}; with machine.keep_checkpoints=all every one is kept"
        raise UserError(f"{path} has no checkpoint{kept or ' any more'}; delete its DONE and type its command again")
    plain = {"device": "auto", "precision": "fp32", "tf32": "off", "compile": "off"}
    machine = config["machine"] | ({} if asked else plain)
    log = {"_target_": "cil.runs.console.Console", "live": False}  # no mirror of what is only looked at
    config = {**config, "machine": machine, "log": log}
    with TemporaryDirectory() as folder:
        trainer = experiment(config, RunDir(Path(folder)), own_device(device_of(machine["device"])), StopRequest())
        trainer.log.close()
        if trainer.frozen:
            trainer.frozen.notes.clear()  # what is encoded from here on is no part of the run
        state = done.load(file)
        for met in trainer.scenario[: state["task"] + 1]:
            trainer.begin(met)
        checkpoint.into(trainer, state, file)
    trainer.method.eval().requires_grad_(False)
    return trainer


def checked_images(config: dict) -> Images:
    """The dataset, whose photographs are not decoded yet. Raises a `UserError` if the scenario cannot be made of it."""
    images = dataset(config)
    make(ordered(config), "scenario", images, (None, None))
    for place in images.stores(config["data"].get("decoded")):
        if not place.exists() and not is_writable(place):
            features = config["data"].get("features")
            raise unwritable(place, " data.features=DIR" if features and not is_writable(Path(features)) else "")
    return images


def ordered(config: dict) -> dict:
    """The settings of the scenario, with the class order of the seed if each seed has its own."""
    node = config["scenario"]
    return node | {"order": f"numpy:{config['seed']}"} if node.get("order") == "seed" else node


def build_scenario(config: dict, backbone: torch.nn.Module, images: Images | None = None) -> Scenario:
    """The data as this backbone sees it, cut into tasks. `images`: as `checked_images` returns them."""
    pair = make(config["augment"], "augment", backbone.image)
    needs = {view.needs for view in pair}
    needed = Size(*needs.pop()) if len(needs) == 1 else Size()  # the two views differ: photographs as they are
    scenario = make(ordered(config), "scenario", images or checked_images(config), pair)
    if config.get("debug"):
        scenario.shorten()
    scenario.images = scenario.images.decoded(needed, config["data"].get("decoded"))
    return scenario


def dataset(config: dict) -> Images:
    """The dataset, listed but not decoded, with the words of `dataset.names` for its classes."""
    node, file = places.words(config["dataset"])
    images = make(node, "dataset", root=config["data"]["root"])
    return images if file is None else named(images, file)


def same_images(config: dict, summary: dict) -> bool:
    """Whether the images are those of a finished run. They are decoded only if files of the same sizes have other times."""
    now, sizes = dataset(config), summary.get("data_sizes")
    if now.listing == summary["data_listing"]:
        return True
    if sizes and now.sizes and now.sizes != sizes:
        return False
    return data_digest(config) == summary["identity"]["data_digest"]


def order_digest(config: dict) -> str:
    """The digest of the class order, as a run of this configuration would record it."""
    return make(ordered(config), "scenario", dataset(config), (None, None)).order_digest()


def data_digest(config: dict) -> str:
    """The digest of all pixels, labels and names, as a run of this configuration would record it."""
    return build_scenario(config, make(config["backbone"], "backbone", root=config["data"]["weights"])).images.digest


def device_of(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"machine.device={name} is not known; type auto, cpu, cuda or cuda:1")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("machine=cuda, but torch sees no GPU here; type machine=cpu (or machine=auto)")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"machine.device={name} is not known; type auto, cpu, cuda or cuda:1") from None


def _no_optimizer(method: str, parameters: object) -> None:
    raise UserError(f"{method} has something to train but optim=none; type optim=sgd optim.lr=0.01, or another optimizer")
