"""What a sweep prints: one line per run as it ends, and a table of all its runs at the end.

Hydra's launchers return when their last job has ended, and an error of one job hides those of the others. `Watched` takes the
result of each job when it is there, from the launchers that this project knows; from others, when all jobs have ended.
"""

import argparse
import re
import shlex
import sys
import textwrap
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from cil.common import places
from cil.common.errors import UserError
from cil.common.tables import WIDTH, number, plural, rounded, shortened
from cil.launch import run as front_door
from cil.launch.compose import lines, plain
from cil.launch.search import Told
from cil.report.collect import by_scenario
from cil.runs.console import Console
from cil.runs.run_folder import RunDir, follows, names

HEAD = f"{'ACC':>7}{'forgetting':>12}{'seconds':>9}  folder"
NAME = WIDTH - len(HEAD) - 4  # the name of a folder has ten letters
NAMED_ALREADY = ("method", "modifier", "seed")
Jobs = Iterator[tuple[int, JobReturn]]
Lines = Sequence[Sequence[str]]


class Sweep:
    """Prints what became of each run. `words` are those of the command line, which are the same for all runs."""

    def __init__(self, words: Sequence[str]) -> None:
        overrides = OverridesParser.create().parse_overrides([*words])
        self.words = {f"{o.get_key_element()}={o.get_value_element_as_str()}" for o in overrides if not o.is_sweep_override()}
        self.began, self.outputs = time.time(), ""
        self.short: dict[str, str] = {}  # what is shown of each word of the runs
        self.summaries: dict[str, dict] = {}  # by address
        self.counts: Counter[str] = Counter()
        self.evaluated = 0  # finished runs that were evaluated again for their predictions
        self.warnings: defaultdict[str, list[str]] = defaultdict(list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the launcher that Hydra makes in this block, if it makes one."""
        plugins, argv = Plugins.instance(), sys.argv
        make = plugins.instantiate_launcher
        plugins.instantiate_launcher = lambda **given: Watched(make(**given), self)  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            plugins.instantiate_launcher = make  # type: ignore[method-assign]
            sys.argv = argv

    def add(self, words: Sequence[str], job: JobReturn, *, search: bool) -> None:
        """Print the line of a run that has ended. `search`: whether the sweeper wants to know which runs failed."""
        config = configuration(job)
        if not self.counts:
            below = f"{self.outputs}/debug" if (config or {}).get("debug") else self.outputs
            say(f"results: {below}/*/*/FOLDER/seed*\n\n{'run':<{NAME}}{HEAD}")
        name = self.name(words, config)
        try:
            if job.status == JobStatus.FAILED:
                raise job._return_value
            assert job.hydra_cfg is not None
            run = RunDir(Path(job.hydra_cfg.hydra.runtime.output_dir))  # of the job, since machine=auto may differ here
            summary = summary_of(run)
        except Exception as error:
            self.counts["failed"] += 1
            if front_door.tell(error, name):
                error.told = True  # type: ignore[attr-defined]
                if not search:
                    job.status, job.return_value = JobStatus.COMPLETED, None
            else:
                print(f"error: {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            return
        before = (run.path / "DONE").stat().st_mtime < self.began
        self.counts["done already" if before else "finished"] += 1
        self.summaries[summary["address"]] = summary
        self.evaluated += before and any(file.stat().st_mtime >= self.began for file in run.path.glob("predictions/*.npz"))
        got, seconds = summary["class_il"], "done" if before else f"{summary['seconds']:.0f}"
        say(f"{brief(name):<{NAME}}{number(got['acc']):>7}{number(got['forgetting']):>12}{seconds:>9}"
            f"  {summary['digest']}")  # fmt: skip
        for warning in summary.get("warnings", ()):
            self.warnings[warning].append(name)

    def name(self, words: Sequence[str], config: dict | None) -> str:
        """The method, what this run does not share with the others, and the seed."""
        own = [word for word in words if word not in self.words]
        if config is None:
            return " ".join(self.short.get(word, word) for word in own or words)
        own = [self.short.get(word, word) for word in own if word.lstrip("+~").partition("=")[0] not in NAMED_ALREADY]
        return " ".join([names(config)[1], *own, f"seed={config['seed']}"])

    def end(self) -> None:
        """Print how many runs there were, and their table."""
        if self.counts:
            parts = ", ".join(f"{count} {how}" for how, count in self.counts.items())
            say(f"\n{plural(self.counts.total(), 'run')}: {parts}")
        if self.evaluated:
            say(f"predictions: added to {plural(self.evaluated, 'finished run')}; tasks without a kept checkpoint have none")
        if self.summaries:
            say(f"\n{by_scenario(self.summaries.values())}")
        for warning, runs in self.warnings.items():
            which = f"{runs[0]}{f' and {len(runs) - 1} more' if len(runs) > 1 else ''}"
            say(textwrap.fill(f"warning: {which}: {warning}", WIDTH, subsequent_indent="  ", break_on_hyphens=False))


class Watched(Launcher):
    """A launcher whose jobs are told of one by one."""

    def __init__(self, launcher: Any, sweep: Sweep) -> None:
        self.launcher, self.sweep = launcher, sweep

    def setup(self, **given: Any) -> None:
        self.launcher.setup(**given)

    def launch(self, job_overrides: Lines, initial_job_idx: int) -> Sequence[JobReturn]:
        config, returned = self.launcher.config.hydra, {}
        search = not config.sweeper._target_.endswith(".BasicSweeper")
        self.sweep.outputs = config.sweep.dir
        self.sweep.short = rounded([*self.sweep.short, *(word for words in job_overrides for word in words)])
        for place, job in ended(self.launcher, job_overrides, initial_job_idx, self.sweep):
            self.sweep.add(job_overrides[place], job, search=search)
            returned[place] = Told(**vars(job)) if search and getattr(job._return_value, "told", False) else job
        return [returned[place] for place in sorted(returned)]


def ended(launcher: Any, jobs: Lines, first: int, sweep: Sweep) -> Jobs:
    """Yield each job's place in the list and what it returned, when it has ended."""
    kind = type(launcher).__name__
    if kind in ("BasicLauncher", "StackedLauncher"):
        if kind == "StackedLauncher":
            launcher.train_together(jobs)
        for place, words in enumerate(jobs):
            try:
                with Console.silenced():
                    job = launcher.launch([words], first + place)[0]
            except Exception as error:  # of settings from which Hydra cannot make the run's folder
                job = JobReturn(status=JobStatus.FAILED, _return_value=error)
            yield place, job
    elif kind == "JoblibLauncher":
        yield from in_processes(launcher, jobs, first, sweep)
    elif kind in ("LocalLauncher", "SlurmLauncher"):
        yield from submitted(launcher, jobs, first, sweep)
    else:
        yield from enumerate(launcher.launch(jobs, first))


def in_processes(launcher: Any, jobs: Lines, first: int, sweep: Sweep) -> Jobs:
    """The jobs of the joblib launcher, as it runs them, but each is yielded when it has ended."""
    from hydra_plugins.hydra_joblib_launcher._core import process_joblib_cfg
    from joblib import Parallel, delayed

    options = {**launcher.joblib, "backend": "loky", "return_as": "generator_unordered"}
    process_joblib_cfg(options)
    given = (launcher.hydra_context, launcher.config, launcher.task_function, Singleton.get_state())
    calls = (delayed(in_process)(sweep.name(words, None), place, first, words, *given) for place, words in enumerate(jobs))
    yield from Parallel(**options)(calls)


def in_process(name: str, place: int, first: int, words: Sequence[str], *given: Any) -> tuple[int, JobReturn]:
    """Run a job in a process of joblib. What it prints carries its name, and its error is left to the first process."""
    from hydra_plugins.hydra_joblib_launcher._core import execute_job

    with redirect_stdout(Named(sys.stdout, name)), Console.silenced():
        try:
            job = execute_job(first + place, words, *given)
        except Exception as error:
            job = JobReturn(status=JobStatus.FAILED, _return_value=error)
    if job.status == JobStatus.FAILED:
        job._return_value.add_note("".join(traceback.format_exception(job._return_value)))  # which pickling leaves out
    return place, job


def submitted(launcher: Any, jobs: Lines, first: int, sweep: Sweep) -> Jobs:
    """The jobs of a submitit launcher; prints their ids. A job that is lost is an error of this job alone."""
    import submitit

    sent: list[Any] = []

    class Executor(submitit.AutoExecutor):
        def map_array(self, *given: Any) -> list:
            sent.extend(super().map_array(*given))
            return []  # the launcher waits for nothing

    original = submitit.AutoExecutor
    submitit.AutoExecutor = Executor  # type: ignore[misc]
    try:
        launcher.launch(jobs, first)
    finally:
        submitit.AutoExecutor = original  # type: ignore[misc]
    for job, words in zip(sent, jobs):
        say(f"job {job.job_id}: {shortened(sweep.name(words, None), WIDTH - 6 - len(job.job_id))}")
    logs = str(launcher.params["submitit_folder"]).replace("%j", "JOB")
    say(f"{plural(len(sent), 'job')} sent; this command waits for them\nlogs: {logs}/")
    places = {id(job): place for place, job in enumerate(sent)}
    for job in submitit.helpers.as_completed(sent, poll_frequency=1 if len(sent) < 20 else 10):
        try:
            yield places[id(job)], job.results()[0]
        except Exception as error:
            yield places[id(job)], JobReturn(status=JobStatus.FAILED, _return_value=error)


class Named:
    """A stream that puts a name before each line."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.stream, self.name, self.line = stream, name, ""

    def write(self, text: str) -> int:
        *whole, self.line = (self.line + text).split("\n")
        self.stream.write("".join(f"{self.name}: {line}\n" for line in whole))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return False


def brief(name: str) -> str:
    """The name of a run within its column. If it is too long, groups are left out, then keys, then its middle."""
    for pattern in (r"", r"(?<= )[^\s=]+\.(?=[^\s=]+=)", r"(?<= )(?!seed=)[^\s=]+="):
        if len(shorter := re.sub(pattern, "", name)) <= NAME:
            return shorter
    return shortened(shorter, NAME)


def configuration(job: JobReturn) -> dict | None:
    """The configuration of a job; None if there is none, as of a job that was lost, or if it has no value for a setting."""
    try:
        config = plain(job.cfg) if job.cfg is not None else None
        return config if config and names(config) else None
    except Exception:
        return None


def summary_of(run: RunDir) -> dict:
    """The summary of a run that has just ended on this or another machine, whose files may need a moment to be seen here."""
    for _ in range(15):
        if run.is_done:
            break
        time.sleep(1)
    return run.summary()


def say(line: str) -> None:
    if not follows():
        print(line, flush=True)


def show_configurations(options: Sequence[str], settings: Sequence[str]) -> None:
    """Print what --cfg shows of each run of a sweep, as one YAML document per run."""
    if search := [word for word in settings if word.startswith("hydra/sweeper=")]:
        raise UserError(f"{search[0]} chooses the settings of each run from the results of others; leave out -m for --cfg")
    every = [*lines([*settings])]
    for count, words in enumerate(every, 1):
        print(f"# {count}/{len(every)}: {shlex.join([*places.entry(), *words])}")
        sys.argv = [sys.argv[0], *options, *words]
        front_door.main()
        print("---" if count < len(every) else "", end="\n" * (count < len(every)))


def many(asked: argparse.Namespace, main: Callable[[], object]) -> None:
    """Run the sweep of the command line, or show its configurations."""
    if asked.cfg:
        show_configurations(
            [word for word in sys.argv[1:] if word not in ("-m", "--multirun", *asked.overrides)], asked.overrides
        )
        return
    sweep = Sweep(asked.overrides)
    try:
        with sweep.watched():
            main()
    except Exception:
        sweep.end()
        raise
    sweep.end()
