"""The training loop, shared by all methods. It calls their hooks and those of modifiers, and writes to the run folder."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from cil.capabilities import LearnsFromFrozen
from cil.common.errors import UserError
from cil.common.seeding import generator, seed_everything
from cil.common.signals import Stopped, StopRequest
from cil.common.transfer import SideStream
from cil.engine import checkpoint
from cil.engine.encodes import Encodes
from cil.engine.evaluation import Evaluation, locality
from cil.engine.loss_meter import Meter, mean_of
from cil.engine.processes import ALONE, Processes, parts
from cil.engine.recipe import Machine, Recipe, Step, gradient
from cil.engine.run_warnings import FEW_STEPS, Doubts, Still, few_steps
from cil.method import Batch, FrozenResults, Known, Losses, Method, Phase, Scenario, Task
from cil.metrics import AccuracyMatrix
from cil.modifier import Modifier
from cil.runs import predictions
from cil.runs.console import Console, told
from cil.runs.precision import in_half
from cil.runs.run_folder import RunDir


class Trainer:
    """Trains and evaluates a method on all tasks of a scenario, resuming from the newest checkpoint if there is one."""

    def __init__(
        self, method: Method, scenario: Scenario, modifiers: Sequence[Modifier], recipe: Recipe, machine: Machine, *, seed: int,
        run: RunDir, log: Console, stop: StopRequest, frozen: FrozenResults | None, identity: dict, process: dict,
        processes: Processes = ALONE,
    ) -> None:  # fmt: skip
        self.method, self.scenario, self.modifiers = method.to(machine.device), scenario, modifiers
        scenario.images = scenario.images.on(machine.device)
        self.recipe, self.machine, self.seed = recipe, machine, seed
        self.run, self.log, self.stop, self.identity, self.shared = run, log, stop, identity, processes
        totals = [len(task.test) for task in scenario]
        self.frozen = frozen  # cached outputs, if the method has a frozen stage
        if frozen:
            method.frozen = frozen
            frozen.splits = {id(scenario.images.train): "train", id(scenario.images.test): "test"}
        self.evaluation = Evaluation(method, machine.device, machine.eval_batch_size, frozen, processes, machine.predictions)
        self.matrices = {name: AccuracyMatrix(totals) for name in self.evaluation.kinds(scenario)}
        self.side_stream, self.doubts = SideStream(machine.device), Doubts()
        self.part = 1.0  # share of a batch that this process learns from
        self.encodes = Encodes(method.backbone, frozen, run)
        self.seconds, self._since = 0.0, time.perf_counter()
        self.share = 1.0  # of this time, if other runs are trained together with this one
        self.processes = [process]  # software and hardware of each process of this run, if they differ
        self.trained: set[str] = set()  # backbone parameters that a phase has trained so far
        self._saved_at = time.perf_counter()
        self.report: Callable[[], object] = lambda: None  # called after each task and after a resume
        self.trained_parameters = 0  # in the largest phase so far
        if machine.precision == "bf16" and frozen:
            in_half(method.frozen_part)

    def fit(self) -> dict[str, AccuracyMatrix]:
        """Train and evaluate on all remaining tasks; returns the accuracies, as `self.matrices` holds them."""
        for step in self.steps():
            self.learn(step)
        return self.matrices

    def steps(self) -> Iterator[Step]:
        """Yield every training step, which the consumer must run; between steps, evaluate, log and write checkpoints."""
        for modifier in self.modifiers:
            modifier.attach(self.method)
        first, inside = self.restore()
        self.shared.agree(first, "checkpoints")
        self.report()
        for task in self.scenario[first:]:
            if inside is None:
                self.begin(task)
                self._modify("begin", task)
            yield from self._train(task, inside)
            inside = None
            if self.method.answers(task):
                self._evaluate(task)
            self._save(task, None)
            self.report()
            if self.shared.any(self.stop) and task.index + 1 < len(self.scenario):
                raise Stopped(self.stop.name)

    # --- one task -------------------------------------------------------------------------------------------------

    @property
    def matrix(self) -> AccuracyMatrix:
        """The accuracies among all classes seen."""
        return self.matrices["class_il"]

    def begin(self, task: Task) -> None:
        """Let the method create the parameters that a new task adds."""
        # torch's attention runs other code in training mode or with trainable weights; a resumed run must run the same code
        self.method.eval().requires_grad_(False)
        seed_everything(self.seed, "begin", task.index)
        with self.precision():
            self.method.begin_task(task)
        self.method.to(self.machine.device)

    def _modify(self, moment: str, task: Task) -> None:
        """Call the modifiers, each with its own random seed, so that they do not change the batches and initial weights."""
        for number, modifier in enumerate(self.modifiers):
            seed_everything(self.seed, "modifier", moment, number, task.index)
            self.method.eval()
            with self.precision():
                getattr(modifier, f"{moment}_task")(self.method, task)

    def _train(self, task: Task, inside: dict | None) -> Iterator[Step]:
        if (phases := self.method.phases(task)) is None:
            raise UserError(f"{type(self.method).__name__}.phases returned None; return a list of phases, [] to train nothing")
        for number, phase in enumerate(phases):
            if inside is None or number >= inside["phase"]:
                yield from self._run_phase(phase, number, inside if inside and number == inside["phase"] else None)
                self._end("phase", phase, number)
        self._end("task", task)
        self._modify("end", task)
        self.shared.same(self.method)
        for doubt in self.method.doubts():
            self.doubts.add(doubt, task.index)
        if facts := self.method.facts():
            self.run.event(task=task.index, method=type(self.method).__name__, **facts)
            self.log.say(f"task {task.index + 1}/{len(self.scenario)}  {told(facts)}")
        for modifier in self.modifiers:
            if facts := modifier.facts():
                self.run.event(task=task.index, modifier=type(modifier).__name__, **facts)

    def _end(self, kind: str, ended: Task | Phase, *number: int) -> None:
        task = ended.task if isinstance(ended, Phase) else ended
        seed_everything(self.seed, "end", task.index, *number)
        self.method.eval()
        with self.precision():
            getattr(self.method, f"end_{kind}")(ended)

    def _evaluate(self, task: Task) -> None:
        with self.precision():
            correct = self.evaluation(self.scenario[: task.index + 1])
            far = locality(self.method.backbone, self.scenario[0].test, self.machine.eval_batch_size, self.machine.device)
        for name, matrix in self.matrices.items():
            matrix.set_row(task.index, correct[name])
        self.run.write_matrices(self.matrices)
        predictions.write(self.run, task.index, self.evaluation.kept)
        self.run.event(task=task.index, **{name: correct[name] for name in self.matrices}, **far)
        own, seen = self.matrix.percent[task.index, task.index], self.matrix.after(task.index)
        self.log.say(f"task {task.index + 1}/{len(self.scenario)}  learned: {own:.1f} % on this task, {seen:.1f} % on all seen")

    # --- one phase ------------------------------------------------------------------------------------------------

    def _run_phase(self, phase: Phase, number: int, inside: dict | None) -> Iterator[Step]:
        optimizer = self._prepare(phase, inside)
        recipe = self.recipe.of(phase.task)
        epochs, size = recipe.extent(phase)
        schedule = phase.schedule or recipe.schedule
        order_of = lambda epoch: phase.order(  # noqa: E731
            len(phase.data), size, generator(self.seed, "order", phase.task.index, number, epoch)
        )
        steps = recipe.steps(len(order_of(0)), size)
        self.unmoved = Still([p for group in optimizer.param_groups for p in group["params"]])
        if inside:
            self.unmoved.before = inside.get("still", self.unmoved.before[:0])  # absent in checkpoints of earlier versions
        first_epoch, first_step, kept = (inside["epoch"], inside["step"], inside["meter"]) if inside else (0, 0, None)
        title = f"task {phase.task.index + 1}/{len(self.scenario)}  {phase.name}"
        self.log.begin_phase(title, steps=epochs * steps, done=first_epoch * steps + first_step)
        for epoch in range(first_epoch, epochs):
            with self.precision():
                if epoch and not first_step and self.method.enough(phase, epoch):
                    break
            where, began = (phase.task.index, number, epoch), time.perf_counter()
            meter = Meter(f"{title}, epoch {epoch + 1}", 1 if self.machine.device.type == "cpu" else 20, kept)
            before = meter.images
            order = order_of(epoch)
            seed_everything(self.seed, "epoch", *where)
            with self.precision():
                self.method.begin_epoch(phase, epoch)
            for step in range(first_step, steps):
                rate = schedule(epoch + step / steps, epochs, optimizer.param_groups[0]["initial_lr"])
                rows = order[step * size : (step + 1) * size]
                last = (epoch + 1, step + 1) == (epochs, steps)
                current = Step(phase, rows, optimizer, rate, (*where, step), last)
                yield current
                meter.add(step, phase.data.rows[rows], current.losses)
                self.log.step(f"epoch {epoch + 1}/{epochs}", len(rows), current.losses)
                if current.stop:
                    self._save_inside(phase, number, epoch, step + 1, meter, optimizer)
                    raise Stopped(self.stop.name)
            first_step, kept = 0, None
            means, seconds = meter.means(), time.perf_counter() - began
            rate = (meter.images - before) / seconds
            names = dict(task=phase.task.index, phase=phase.name, epoch=epoch)
            self.run.event(**names, losses=means, images=meter.images, seconds=round(seconds, 3))
            self.log.end_epoch(f"{title}  epoch {epoch + 1}/{epochs}", means, rate)
            if self.shared.any(time.perf_counter() - self._saved_at >= self.machine.checkpoint_seconds):
                self._save_inside(phase, number, epoch + 1, 0, None, optimizer)
        self.log.end_phase()
        if (taken := epochs * steps) < FEW_STEPS:
            self.doubts.add(few_steps(phase.name, taken), phase.task.index)
        if self.unmoved:
            self.doubts.add(f"the parameters of phase {phase.name} did not move", phase.task.index)

    def _prepare(self, phase: Phase, inside: dict | None) -> torch.optim.Optimizer:
        """Make only the phase's parameters trainable and create their optimizer, restored from a checkpoint if given."""
        listed = list(phase.parameters)
        flat = [p for entry in listed for p in (entry["params"] if isinstance(entry, dict) else [entry])]
        chosen = {id(p) for p in flat}
        self.trained_parameters = max(self.trained_parameters, sum(p.numel() for p in flat))
        self.method.train()
        self.method.requires_grad_(False)
        for parameter in flat:
            parameter.requires_grad_(True)
        trained = {name for name, p in self.method.named_parameters() if id(p) in chosen and name.startswith("backbone.")}
        self.method.backbone.train(bool(trained))  # a frozen backbone keeps its batch statistics
        self.trained |= trained
        optimizer = (phase.optimizer or self.recipe.of(phase.task).optimizer)(listed)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        if inside:
            optimizer.load_state_dict(inside["optimizer"])
        return optimizer

    def batch(self, step: Step) -> Batch | Known:
        """Load the batch of a step: images, or cached features if the frozen stage's output is all that the method needs."""
        if isinstance(self.method, LearnsFromFrozen) and (known := self.known(step)):
            return known
        random = generator(self.seed, "augment", *step.where)
        return self.side_stream.make(lambda: step.phase.data.batch(step.rows, self.machine.device, random, step.where[-1]))

    def known(self, step: Step) -> Known | None:
        """What the frozen stage gives for the images of a step, if that is cached, else None."""
        data, random = step.phase.data, generator(self.seed, "augment", *step.where)
        if not (self.frozen and data.view.variants):
            return None
        with torch.no_grad(), self.precision():
            return self.frozen.batch(data, step.rows, random, step.where[-1])

    def learn(self, step: Step) -> None:
        """Run a training step and store its losses in `step.losses`."""
        batch, self.part = self.shared.part(self.batch(step))
        self.learn_from(step, batch)

    def learn_from(self, step: Step, batch: Batch | Known) -> None:
        seed_everything(self.seed, "step", *step.where)
        divided = parts(batch, self.recipe.accumulate)
        steps, taken = [(self.method.training_steps(part, step.phase), weight) for part, weight in divided], []
        while losses := gradient(steps, step.optimizer, self.precision):
            taken.append(self.update(step, losses))
        step.losses = mean_of(taken)

    def update(self, step: Step, losses: Losses) -> Losses:
        """Change the parameters along their gradients, which are final but for clipping; returns the losses, detached."""
        means, step.stop = self.shared.averaged(step.optimizer, losses, self.part, self.stop)
        for group in step.optimizer.param_groups:
            group["lr"] = step.rate * group["initial_lr"]
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_([p for g in step.optimizer.param_groups for p in g["params"]], self.recipe.clip)
        for modifier in self.modifiers:
            modifier.before_step(self.method, step.phase)
        step.optimizer.step()
        for modifier in self.modifiers:
            modifier.after_step(self.method, step.phase)
        return means

    def precision(self) -> torch.autocast:
        return torch.autocast(self.machine.device.type, torch.bfloat16, enabled=self.machine.precision == "bf16")

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def _save_inside(self, phase: Phase, number: int, epoch: int, step: int, meter: Meter | None, optimizer) -> None:
        position = {"phase": number, "epoch": epoch, "step": step, "still": self.unmoved.before}
        self._save(phase.task, {**position, "meter": meter and meter.state(), "optimizer": optimizer.state_dict()})

    def _save(self, task: Task, inside: dict | None) -> None:
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + self.share * (now - self._since), now
        self.encodes.before, self.encodes.since = self.encodes.before + self.shared.total(round(self.encodes.since)), 0
        state = {"task": task.index, "inside": inside, **checkpoint.of(self)}
        self.run.save(state, task=task.index, inside=inside is not None, keep_all=self.machine.keep_checkpoints == "all")
        self._saved_at = time.perf_counter()

    def restore(self) -> tuple[int, dict | None]:
        """Load the newest checkpoint; returns the task to continue with and, if it is inside a task, the state there."""
        file = self.run.newest
        if file is None:
            self.run.cut_events(0)
            return 0, None
        state = self.run.load(file)
        for task in self.scenario[: state["task"] + 1]:
            self.begin(task)
        checkpoint.into(self, state, file)
        self.run.cut_events(state["events"])
        inside = state["inside"]
        if self.matrix.learned:
            self.run.write_matrices(self.matrices)  # the file may be missing, or one task ahead of the checkpoint
        if not inside:
            self.run.keep_only(file, keep_all=self.machine.keep_checkpoints == "all")
        self.log.say(f"resuming from {file.name} ({'inside' if inside else 'after'} task {state['task'] + 1})")
        return (state["task"], inside) if inside else (state["task"] + 1, None)
