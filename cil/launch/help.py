"""What python run.py --help prints."""

import shlex
import textwrap

from cil.common import places

INTERNAL = ("hydra", "size", "family", "recipe", "scratch")  # groups that scenarios and methods choose


def help_text() -> str:
    """What --help prints: examples, then the options of every group, wrapped to 80 columns."""
    command = shlex.join(places.entry())
    lines = [
        "Train and evaluate class-incremental learning methods on vision transformers",
        "and CLIP.",
        "",
        f"  {command} method=finetune                      one run",
        f"  {command} -m method=finetune,joint seed=0,1,2  a sweep",
        f"  {command} method=finetune --cfg job            the settings of a run",
        "",
        "A finished run is not repeated. Any setting can be given, as in train.epochs=3",
        "optim.lr=0.01.",
        "",
        "Options, as in group=option:",
        "",
    ]
    for group in sorted(folder for folder in places.CONF.iterdir() if folder.is_dir() and folder.name not in INTERNAL):
        names = ", ".join(sorted(str(file.relative_to(group).with_suffix("")) for file in group.rglob("*.yaml") if
                                 group.name != "backbone" or file.parent == group))  # fmt: skip
        lines += textwrap.wrap(f"{group.name}: {names}", 80, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)
