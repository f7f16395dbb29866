"""Gradient projection over every host: what each reading keeps and what it does not."""

from itertools import pairwise

import pytest
import torch

from cil.common.errors import UserError
from cil.common.signals import StopRequest
from cil.contract import in_pieces
from cil.engine.build import device_of, experiment
from cil.engine.checkpoint import moved
from cil.modifiers.pgp import PGP, gram
from cil.modules.statistics.subspace import extend_by_scores
from cil.runs.run_folder import RunDir
from tests import harness
from tests.methods.test_contract import fitted
from tests.methods.test_prompt_vectors import l2p, step
from tests.modules.test_subspace import TABLE, references
from tests.reference import close, transformer

PROMPTS = ["l2p", "dualprompt", "clip_prompt", "pet method.kind=prompt"]
HOSTS = [*PROMPTS, "pet", "pet method.kind=lora"]
BASES = {"l2p": 2, "dualprompt": 5 * 4, "clip_prompt": 1, PROMPTS[3]: 2, "pet": 2 * 2, HOSTS[5]: 2 * 2 * 3}
SWITCHES = dict(space="sample", project="gradient", inputs="released", sampled="released", images=None,
                energy={"token": 0.5, "key": 0.97, "prefix": 0.5, "image": 0.9},
                components={"token": 9, "key": 5, "prefix": 50, "image": 5})  # fmt: skip


@pytest.mark.parametrize("energy", TABLE)
def test_projected_gradients_of_the_released_code(energy):
    """Section 15.5 of the specification, through the modifier itself."""
    host, modifier = l2p(transformer()), PGP(**SWITCHES)
    step(host, [0, 1, 2, 0], range(3), 0)
    basis = extend_by_scores(extend_by_scores(None, references()[0], energy), references()[1], energy)
    modifier.used = {"prompts": [basis], "keys": [basis]}
    modifier.removed = {name: torch.zeros(2, dtype=torch.float64) for name in modifier.used}
    modifier.before_step(host, None)
    wanted = {0.50: (0.0828016514, 0.0427007534), 0.90: (0.0775948701, 0.0426817494), 0.97: (0.0762708371, 0.0419439058)}
    close(torch.stack([host.prompts.grad.norm(), host.keys.grad.norm()]), wanted[energy])


def slices(method) -> dict[str, torch.Tensor]:
    """(rows, heads, width of a head) of each site."""
    return {
        site.name: site.parameter.data[site.index].reshape(-1, site.heads, site.parameter.shape[-1]).clone()
        for site in method.projection_sites()
    }


class Watched(PGP):
    """Remembers what each task's inputs were, and what each task did to the sites."""

    def begin_task(self, method, task):
        super().begin_task(method, task)
        self.before, self.met, self.moves = slices(method), getattr(self, "met", []), getattr(self, "moves", [])

    def end_task(self, method, task):
        after = slices(method)
        self.moves.append({name: after[name] - self.before[name] for name in after})
        with torch.no_grad():
            images = task.train_plain.batch(torch.arange(len(task.train_plain))).images
            self.met.append({name: gram(inputs) for name, inputs in method.projection_inputs(images, False).items()})
        super().end_task(method, task)


def watched(config, folder) -> Watched:
    trainer = experiment(config, RunDir(folder).open(config), device_of("cpu"), StopRequest())
    (node,) = config["modifier"].values()
    trainer.modifiers = [Watched(**{key: value for key, value in node.items() if key != "_target_"})]
    with trainer.run:
        trainer.fit()
    return trainer.modifiers[0]


def leaks(modifier: Watched) -> list[float]:
    """Of the last task's update, the largest entry along a direction of the basis of the tasks before it, a head each."""
    told = []
    for name, bases in modifier.used.items():
        move = modifier.moves[-1][name]
        if modifier.by_samples:
            move = move.flatten(1)[:, None]
        for head, basis in enumerate(bases):
            if basis.shape[1]:
                told.append(float((move[:, head].double() @ basis).abs().max()))
    return told


@pytest.mark.parametrize("host", HOSTS)
def test_the_update_of_a_task_stays_out_of_the_basis(small, host, tmp_path):
    """To 1e-6, for each head of a prefix by itself; the released projection of gradients leaves it by two orders more.

    PEGP's released bases are unit vectors, whose directions Adam's update does not enter.
    """
    paper = watched(small(host), tmp_path / "paper")
    assert len(leaks(paper)) == BASES[host]
    assert max(leaks(paper)) < 1e-6
    released = watched(small(host, "reading=released"), tmp_path / "released")
    assert max(leaks(released)) > 1e-4 if host in PROMPTS else max(leaks(released)) < 1e-12


@pytest.mark.parametrize("host", PROMPTS)
def test_logits_of_old_inputs_move_by_no_more_than_the_energy_left_out(small, host, tmp_path):
    """Σ(x·Δpᵀ)² over old inputs ≤ ‖Δp‖² times the largest energy that the basis leaves out in a direction.

    Energies are set high, so that what is left out is little, and both readings are measured with the same yardstick.
    """
    high = (*(f"modifier.pgp.energy.{kind}=0.99" for kind in ("token", "prefix", "image")), "modifier.pgp.images=36")
    paper = watched(small(host, *high, "modifier.pgp.inputs=met"), tmp_path / "paper")
    released = watched(small(host, "reading=released", *high[:3]), tmp_path / "released")
    over = {paper: [], released: []}
    for name, bases in paper.used.items():
        for head, basis in enumerate(bases):
            rest = torch.eye(len(basis), dtype=torch.float64) - basis @ basis.T
            for run, ratios in over.items():
                for old in run.met[:-1]:
                    allowed = torch.linalg.eigvalsh(rest @ old[name][head] @ rest)[-1]
                    move = run.moves[-1][name][:, head].double()
                    ratios.append(float((move @ old[name][head] @ move.T).trace() / (allowed * move.square().sum())))
                assert float((rest @ old[name][head] @ rest).trace()) <= 0.04 * float(old[name][head].trace())
    assert max(over[paper]) <= 1 + 1e-6
    assert max(over[released]) > 3


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_switching_it_off_leaves_batches_and_initial_weights_untouched(small, compose, host, reading, tmp_path):
    """The first task, which nothing projects, is the same to the bit, and so are the orders of all others."""
    runs, orders = [], []
    for words in ((), ("modifier=none",)):
        config = small(host, f"reading={reading}", *words)
        run = RunDir(tmp_path / str(len(runs))).open(config)
        trainer = experiment(config, run, device_of("cpu"), StopRequest())
        seen = []
        training_step = trainer.method.training_step
        trainer.method.training_step = lambda batch, phase, f=training_step, s=seen: s.append(batch) or f(batch, phase)
        with trainer.run:
            trainer.fit()
        runs.append([event for event in harness.losses(trainer.run) if "losses" in event])
        orders.append(seen)
    assert runs[0][:2] == runs[1][:2] and runs[0][0]["task"] == runs[0][1]["task"] == 0
    assert runs[0] != runs[1]
    for one, two in zip(*orders, strict=True):
        assert torch.equal(one.indices, two.indices) and torch.equal(one.images, two.images)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_resume_equals_straight_run(small, host, reading, tmp_path):
    """Stopped inside epochs, at an epoch's and a task's end and in a later task; anchors, bases and shares come back."""
    config = small(host, f"reading={reading}")
    straight = fitted(config, tmp_path / "straight")
    resumed, times = in_pieces(lambda stop: fitted(config, tmp_path / "resumed", stop), (1, 4, 1, 1, 1))
    assert times == 5
    harness.assert_same_bits(straight.run, resumed.run)
    assert straight.modifiers[0].facts() == resumed.modifiers[0].facts()


def test_ranks_and_shares_are_in_the_record(small, tmp_path):
    trainer = fitted(small("l2p"), tmp_path)
    told = [event for event in harness.losses(trainer.run) if event.get("modifier") == "PGP"]
    assert [event["task"] for event in told] == [0, 1, 2]
    assert told[0]["removed"] == {"prompts": 0.0, "keys": 0.0}
    assert all(0 < share < 1 for share in told[2]["removed"].values())
    for one, two in pairwise(told):
        assert all(one["ranks"][name] <= two["ranks"][name] for name in ("prompts", "keys"))


def test_a_kind_without_an_energy_is_left_alone(small, tmp_path):
    trainer = fitted(small("l2p", "modifier.pgp.energy.token=null"), tmp_path)
    assert trainer.modifiers[0].bases.keys() == {"keys"}


def test_a_resumed_state_arrives_on_the_device_of_the_machine():
    state = {"bases": {"keys": [torch.zeros(3, 1)]}, "anchors": {"keys": torch.zeros(2)}, "used": {}, "kept": 3}
    there = moved(state, torch.device("meta"))
    assert there["bases"]["keys"][0].is_meta and there["anchors"]["keys"].is_meta and there["kept"] == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["modifier.pgp.space=smaple"], "modifier.pgp.space=smaple is not known; did you mean sample?"),
        (["modifier.pgp.energy.key=true"], "modifier.pgp.energy.key=True is not a number above 0 to 1 or null"),
        (
            ["~modifier.pgp.energy.key"],
            "modifier.pgp.energy has token, prefix, image; it needs token, key, prefix, image, each once",
        ),
        (["modifier.pgp.components.token=ab"], "modifier.pgp.components.token=ab is not a whole number from 1 on"),
        (["modifier.pgp.images=-5"], "modifier.pgp.images=-5 is not a whole number from 1 on"),
        (["modifier.pgp.images=2.5"], "modifier.pgp.images=2.5 is not a whole number from 1 on or null"),
        (["modifier.pgp=null"], "modifier.pgp=None has no settings"),
        (["reading=released", "method.pool=3"], "modifier.pgp.components.token=9, but prompts has 6 rows"),
        (["modifier.pgp.energy.key=97"], "modifier.pgp.energy.key=97 is not a number above 0 to 1 or null"),
        (["reading=released", "modifier.pgp.images=20"], "it needs 32 a task; task 1 has 36 and modifier.pgp.images=20"),
    ],
)
def test_a_slip_is_told_in_one_line(small, words, line, tmp_path):
    with pytest.raises(UserError, match=line):
        fitted(small("l2p", *words), tmp_path)


def test_a_host_without_sites_is_refused(small, tmp_path):
    line = r"pgp needs a method that has projection sites \(method=l2p, dualprompt, clip_prompt or pet\); Finetune does not"
    with pytest.raises(UserError, match=line):
        fitted(small("finetune"), tmp_path)


def test_hosts_describe_slices_that_they_train(small, tmp_path):
    for host in HOSTS:
        trainer = fitted(small(host, "method.head_epochs=0") if "pet" in host else small(host), tmp_path / host)
        images, sites = trainer.scenario[2].test.batch(torch.arange(3)).images, trainer.method.projection_sites()
        listed = trainer.method.phases(trainer.scenario[2])[0].parameters
        trained = {id(p) for entry in listed for p in (entry["params"] if isinstance(entry, dict) else [entry])}
        assert len({site.name for site in sites}) == len(sites)
        for released in (False, True):
            with torch.no_grad():
                inputs = trainer.method.projection_inputs(images, released)
            assert inputs.keys() == {site.name for site in sites}
            for site in sites:
                assert id(site.parameter) in trained
                assert inputs[site.name].shape[0] == 3
                assert inputs[site.name].shape[2:] == (site.heads, site.width // site.heads)
