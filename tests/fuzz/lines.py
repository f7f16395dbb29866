"""Random command lines with one setting that cannot be meant: of the wrong type, sign or size."""

from collections.abc import Iterator
from random import Random

from tests.harness import compose, options

BASE = ("scenario=glyphs_10tasks", "machine=cpu", "log.live=false", "dataset.train_per_class=9", "dataset.test_per_class=3")
GROUPS = {
    **{group: options(group) for group in ("method", "optim", "schedule", "augment", "modifier", "log", "scenario")},
    "backbone": [name for name in options("backbone") if "tiny" in name],
    "machine": ["cpu"],
    "dataset": ["glyphs", "noise", "cifar100", "folder", "tinyimagenet", "imagenet100"],
}
NONSENSE = ("1.5", "-1", "true", "{a: 1}", "nan", "[a, b]", "a b", "ä", "../x", "''", "foo")  # no option of any group
WORDLESS = ("-p", "--resolve", "=", "==", "a=", "=b", "[", "{", "method", "+", "~", "~nothing", "++", "a=b=c", "-x", "--foo",
            "method==l2p", "@method=l2p", "method@x=l2p", "hydra.run.dir=1")  # fmt: skip
ANY_WORD = ("scenario.name", "data.root", "data.weights", "data.features", "outputs")  # a path or a name may look like anything
REAL = ("machine.checkpoint_seconds",)  # may have a fraction, although the file has none
NUMBERS = ("nan", "inf", "-inf", "-7", "1e30", "true", "abc", "[1]", "{a: 1}", "''")


def flat(node: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every key of a configuration with its value, mappings included."""
    if prefix:
        yield prefix, node
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from flat(value, f"{prefix}.{key}" if prefix else key)


def wrong(value: object) -> tuple[str, ...]:
    """Texts that cannot be meant where this value stands."""
    if isinstance(value, bool):
        return "7", "abc", "nan", "[true]", "{a: 1}"
    if isinstance(value, int):
        return (*NUMBERS, "2.5")
    if isinstance(value, float):
        return NUMBERS
    if isinstance(value, list):
        return "5", "abc", "{a: 1}", "[{a: 1}]", "[[nan]]"
    if isinstance(value, dict):
        return "7", "abc", "[1]", "nan"
    if isinstance(value, str):
        return "7.5", "true", "[a]", "{a: 1}", "''"
    return "[{a: 1}]", "-inf"  # null: what else it may be, the configuration does not tell


def lines(seed: int, count: int) -> Iterator[tuple[list[str], str]]:
    """`count` command lines, each with the word in it that is wrong."""
    chance, keys = Random(seed), {}
    for number in range(count):
        if number % 10 == 0:
            word = chance.choice(WORDLESS)
            yield [word], word
        elif number % 10 < 3:
            word = f"{chance.choice(list(GROUPS))}={chance.choice(NONSENSE)}"
            yield [word], word
        else:
            group = chance.choice(list(GROUPS))
            chosen = f"{group}={chance.choice(GROUPS[group])}"
            if chosen not in keys:
                more = ["method=finetune", "optim.lr=0.1"] if group in ("optim", "schedule") else []
                more += ["schedule.at=[2]"] * (chosen == "schedule=milestones") + ["dataset.path=x"] * ("folder" in chosen)
                more += ["method=l2p"] * (group == "modifier")
                config = compose(*BASE[: 3 if group in ("dataset", "scenario") else None], *more, chosen)
                keys[chosen] = more, [(key, value) for key, value in flat(config) if key not in ANY_WORD]
            more, known = keys[chosen]
            own = [pair for pair in known if pair[0].split(".")[0] == group] or known
            key, value = chance.choice(own if chance.random() < 0.8 else known)
            word = f"{key}={chance.choice(wrong(float(value) if key in REAL else value))}"
            yield [*more, chosen, word], word
