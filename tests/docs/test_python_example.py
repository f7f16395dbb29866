"""The Python of docs/tables.md runs as it stands there."""

import re

import cil
from tests.harness import ROOT, SMALL


def test_the_example_of_the_page_on_tables(monkeypatch, tmp_path, data_root, capsys):
    (code,) = [
        text for text in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tables.md").read_text(), re.S) if "cil." in text
    ]
    made = cil.run
    words = (*SMALL, "scenario.tasks=5", f"data.root={data_root}")
    monkeypatch.setattr(cil, "run", lambda *own, **more: made(*own, *words, **more), raising=False)
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(code, found)
    told = capsys.readouterr().out
    assert len(found["frame"]) == 1 and found["run"].accuracy.shape == (5, 5)
    assert f"{found['run'].summary['class_il']['acc']}" in told and found["task"].names[0] in " ".join(found["task"].names)
