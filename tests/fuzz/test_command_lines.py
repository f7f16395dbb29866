"""No strange command line is answered by a traceback, and none by a number."""

import re
import sys

import pytest

from cil.engine.trainer import Trainer
from cil.launch import run as front_door
from tests.fuzz.lines import BASE, lines
from tests.fuzz.record import TIMES, record

COUNT = 30 * TIMES  # a chunk
MISSING = re.compile("error: .*(is not there|not on this machine)")  # these are told together, before torch is imported


class Accepted(Exception):
    """The run was built and would begin."""


def begins(self):
    raise Accepted


@pytest.mark.parametrize("chunk", range(10))
def test_a_wrong_word_is_told_in_one_sentence(chunk, monkeypatch, capfd, data_root, outputs):
    monkeypatch.setattr(Trainer, "fit", begins)
    wrong = []
    for words, word in lines(chunk, COUNT):
        line = ["run.py", f"outputs={outputs}", f"data.root={data_root}", *BASE, *words]
        monkeypatch.setattr(sys, "argv", line)
        try:
            code, raised = front_door.front_door(), None
        except Accepted:
            code, raised = 0, None
        except (Exception, SystemExit) as error:
            code, raised = getattr(error, "code", 1), error
        said = capfd.readouterr().err
        if (raised is not None and code != 2) or "Traceback" in said:
            wrong.append(f"TRACEBACK {word}   {' '.join(words)}   {raised!r:.150}")
        elif code == 0:
            wrong.append(f"ACCEPTED  {word}   {' '.join(words)}")
        elif said.count("\n") != 1 and not (said and all(map(MISSING.match, said.splitlines()))):
            wrong.append(f"LINES     {word}   {' '.join(words)}   {said[:200]!r}")
    record("command lines", tried=COUNT, otherwise=len(wrong))
    assert not wrong, "\n".join(wrong)
