"""The printed numbers: files that can be read, rows that can be run, pairs that arithmetic allows, digits of the sources."""

import re
from collections import defaultdict
from dataclasses import replace

import pytest
import yaml

from cil.common.errors import UserError
from cil.metrics import impossible
from cil.report import published
from tests.harness import CONF, ROOT, compose

TABLES = {name: published.load(name) for name in published.tables()}
SPECS = ROOT.parent / "shared" / "specs"
ELSEWHERE = {  # their sources are named in the file: papers and logs that no specification quotes
    "c3box_clip", "inflora", "inflora_imagenet_r", "nsp2", "pilot_b16", "sd_lora", "tuna",
}  # fmt: skip
DECIMAL = re.compile(r"(?<![\w.])[-+]?\d+\.\d+(?![\w.]*\w)")
SECTIONS = [  # a specification, the heading over the numbers, the tables that hold them, how many rows are rows here too
    ("prompt-vit", "## 11. Published numbers", ("pgp_", "l2p_"), 34),  # of the others: re-runs, several in one cell
    ("prompt-clip", "## 7. Published tables", ("attriclip_",), 21),  # one table out of two here, three that lie on their side
    ("clip-fusion", "## 5. Published numbers", ("rapf_", "continual_clip_", "awpf"), 11),  # cells with what two tables print
    ("locality-vit", "## 11. Published numbers", ("dytox_", "lpa"), 31),
    ("baselines", "### 3.1 PGP Table 5", ("pgp_table5",), 10),
]


def in_turn(text: str) -> list[float]:
    return [float(found) for found in DECIMAL.findall(re.sub(r"\+-|±|−|/", lambda sign: " -" if sign[0] == "−" else " ", text))]


def decimals(text: str) -> set[float]:
    return set(in_turn(text))


def printed(table: published.Table) -> set[float]:
    return {number for row in table.rows for number in sequence(row)}


def sequence(row: published.Row) -> list[float]:
    numbers = [number for block in row.numbers.values() for number in block.values()]
    return [part for number in numbers for part in (number.value, number.spread) if part is not None]


def grids(spec: str, heading: str) -> list[str]:
    """The tables of a section as they are written."""
    rest = (SPECS / f"{spec}.md").read_text().split(f"\n{heading}")[1]
    section = re.split(rf"\n#{{2,{heading.count('#')}}} ", rest)[0]
    if spec == "baselines":  # its second table is reckoned, not printed
        section = section.split("\n\n- ")[0]
    return re.findall(r"(?:^\|.*\n)+", section, re.M)


def commands() -> dict[tuple[str, ...], str]:
    """Every row's words in every column where it has a place, each list once."""
    return {
        (*table.columns[key].run, *row.run): f"{table.name}: {row.name}"
        for table in TABLES.values() for row in table.rows if row.run is not None for key in row.numbers
    }  # fmt: skip


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_file_says_what_it_is(table):
    text = (published.FOLDER / f"{table.name}.yaml").read_text()
    assert text.startswith("# ") and max(map(len, text.splitlines())) <= 128
    assert table.seeds and table.notes and all(note.endswith(".") for note in table.notes)
    assert all(note.endswith(".") for row in table.rows for note in row.notes)
    used = {(key, quantity) for row in table.rows for key, block in row.numbers.items() for quantity in block}
    if used:
        assert used >= {(key, quantity) for key, column in table.columns.items() for quantity in column.quantities}
    assert {key for row in table.rows for key in row.numbers} == set(table.columns)
    names = [(row.name, row.memory) for row in table.rows]
    assert len(names) == len(set(names)), "two rows of one name and memory"


@pytest.mark.parametrize(("words", "place"), commands().items(), ids=lambda part: part if isinstance(part, str) else "")
def test_commands_compose(words, place):
    assert compose(*words), place


def test_a_row_with_both_readings_has_a_switch():
    rows = {
        tuple(row.run): table.columns[next(iter(row.numbers))].run
        for table in TABLES.values() for row in table.rows if len(row.readings) == 2
    }  # fmt: skip
    for own, first in rows.items():
        assert compose(*first, *own) != compose(*first, *own, "reading=released"), own


def test_impossible_pairs_are_called_so():
    tasks, flagged = {}, 0
    for table in TABLES.values():
        for row in table.rows:
            for key, block in row.numbers.items():
                words, acc = tuple(table.columns[key].run), block.get("acc")
                lost = block.get("forgetting") or block.get("forgetting_with_last")
                if not (words and acc and lost):
                    continue
                if words not in tasks:
                    tasks[words] = compose(*words)["scenario"]["tasks"]
                why = impossible(acc.value, lost.value, tasks[words])
                said = any("impossible" in note for note in row.notes)
                assert why is None or said, f"{table.name}, {row.name}, {key}: {why}"
                flagged += why is not None
    assert flagged == 1  # the 10-task FT of PGP's Table 5


@pytest.mark.parametrize(
    "file", sorted((CONF / "experiment").rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_no_number_is_typed_twice(file):
    comments = "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    assert not {number for number in decimals(comments) if number > 1}, "it belongs into cil/report/published"
    assert set(re.findall(r"cil/report/published/(\w+)\.yaml", comments)) <= set(TABLES)


@pytest.mark.skipif(not SPECS.is_dir(), reason="the specifications (../shared/specs) are not here")
@pytest.mark.parametrize(("spec", "heading", "names", "rows"), SECTIONS, ids=[section[0] for section in SECTIONS])
def test_every_number_of_a_specifications_tables_is_here(spec, heading, names, rows):
    wanted, kept = set(), 0
    for grid in grids(spec, heading):
        wanted |= decimals("\n".join(grid.splitlines()[2:]).replace("below 11.1", ""))  # a section's number
        for word, cells in rows_of(grid):
            kept += any(word in letters(name) and together(cells, own) for name, own in here_by_name(names).items())
    here = set()
    for name, table in TABLES.items():
        if name.startswith(names):
            notes = [*table.notes, *(note for row in table.rows for note in [*row.notes, row.quoted or ""])]
            here |= printed(table) | decimals("\n".join(notes))
    assert len(wanted) > 15 and wanted <= here, sorted(wanted - here)
    assert kept == rows, "a cell stands in another row, or behind one that it should stand before"


def letters(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def rows_of(grid: str) -> list[tuple[str, list[list[float]]]]:
    """Of each row the beginning of its name and the cells that hold numbers, without its memory and its parameters."""
    head, _, *lines = [line.strip("|").split("|") for line in grid.splitlines()]
    left_out = {0, *(place for place, word in enumerate(head) if re.match(" *(#P|Mem|exemplars)", word))}
    rows = [(letters(line[0])[:4], [in_turn(cell) for n, cell in enumerate(line) if n not in left_out]) for line in lines]
    return [(word, cells) for word, row in rows if (cells := [cell for cell in row if cell])]


def here_by_name(names: tuple[str, ...]) -> dict[str, list[list[float]]]:
    """The rows of one name in these tables, as sequences of numbers."""
    found = defaultdict(list)
    for name, table in TABLES.items():
        for row in table.rows if name.startswith(names) else ():
            found[row.name].append(sequence(row))
    return found


def together(cells: list[list[float]], rows: list[list[float]]) -> bool:
    """Whether each cell stands unbroken in one of the rows, behind the cells before it that stand there too."""
    ends = [0] * len(rows)
    for cell in cells:
        for number, own in enumerate(rows):
            behind = range(ends[number], len(own) - len(cell) + 1)
            if (place := next((k for k in behind if own[k : k + len(cell)] == cell), None)) is not None:
                ends[number] = place + len(cell)
                break
        else:
            return False
    return True


def test_a_cell_in_another_place_is_seen():
    rows = [[1.5, 0.2, 3.5, 0.4], [7.5]]
    assert together([[1.5, 0.2], [3.5, 0.4], [7.5]], rows) and together([[3.5]], rows)
    assert (
        not together([[3.5, 0.4], [1.5, 0.2]], rows) and not together([[1.5, 0.4]], rows) and not together([[7.5], [7.5]], rows)
    )


@pytest.mark.skipif(not SPECS.is_dir(), reason="the specifications (../shared/specs) are not here")
def test_every_number_here_stands_in_a_specification():
    text = "\n".join(file.read_text() for file in SPECS.glob("*.md"))
    known = decimals(text) | {float(whole) for whole in re.findall(r"(?<![\w.])[-+]?\d+(?![\w.]*\w)", text)}
    for name, table in TABLES.items():
        assert name in ELSEWHERE or printed(table) <= known, (name, sorted(printed(table) - known))


def edited(monkeypatch, tmp_path, change) -> published.Table:
    node = yaml.safe_load((published.FOLDER / "pgp_table8.yaml").read_text())
    change(node)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(node))
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    return published.load("mine")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda node: node.update(year=2024), "mine: there is no key year"),
        (lambda node: node.pop("paper"), "mine: paper is missing"),
        (lambda node: node["rows"][0].update(methd="l2p"), "mine: CLIP: there is no key methd; choose from memory"),
        (lambda node: node["rows"][0].update(quoted="why"), "a row needs either run or quoted"),
        (lambda node: node["rows"][0].pop("run"), "a row needs either run or quoted"),
        (lambda node: node["rows"][0]["numbers"].update(cifar10={}), "there is no column cifar10; did you mean"),
        (lambda node: node["rows"][0]["numbers"]["cifar100_10tasks"].update(aac=1), "has no aac; "),
        (lambda node: node["columns"]["cifar100_10tasks"]["quantities"].update(aac="ACC"), "aac is not a quantity"),
    ],
)
def test_a_slip_in_a_file_is_named(monkeypatch, tmp_path, change, line):
    with pytest.raises(UserError, match=re.escape(line)):
        edited(monkeypatch, tmp_path, change)


def test_an_unknown_table_is_told_the_nearest():
    with pytest.raises(UserError, match="table pgp_tabel5 is not known; did you mean pgp_table"):
        published.load("pgp_tabel5")


def test_a_number_with_and_without_a_spread(monkeypatch, tmp_path):
    table = edited(
        monkeypatch,
        tmp_path,
        lambda node: node["rows"][0]["numbers"]["cifar100_10tasks"].update({"leaky_il.acc": [73.76, 0.1]}),
    )
    block = table.rows[0].numbers["cifar100_10tasks"]
    assert block["leaky_il.acc"] == published.Number(73.76, 0.1)
    assert block["leaky_il.forgetting"] == published.Number(5.6)
    assert table.rows[0].readings == ("paper", "released") and published.load("mine") == table


def words(text: str) -> set[str]:
    """`CIFAR-100` and `CIFAR100-10 ACC` → cifar100; cifar100, 10, acc."""
    text = re.sub(r"(cifar|cub)-(?=\d)", r"\1", text.lower())
    return set(re.findall(r"[a-z]+\d*|\d+", text.replace("imagenet-", "imagenet")))


def headed(grid: str) -> list[tuple[str, set[str], list[float]]]:
    """Each cell of a written table that holds numbers: the beginning of its row's name, the words of its heading, its numbers.

    A heading F is the forgetting of the column before it.
    """
    head, _, *lines = [line.strip("|").split("|") for line in grid.splitlines()]
    asked: list[set[str]] = []
    for cell in head:
        asked.append((asked[-1] - {"acc"}) | {"forgetting"} if cell.strip() == "F" else words(cell))
    return [
        (letters(line[0])[:4], asked[place], numbers)
        for line in lines for place, cell in enumerate(line) if place and (numbers := in_turn(cell))
    ]  # fmt: skip


def under_their_headings(grid: str, tables: list[published.Table]) -> tuple[int, list[str]]:
    """How many cells stand under a heading that a column of ours bears too, and those that are not in such a column."""
    ours = [
        (letters(row.name), words(f"{column.title} {title}"), [number.value, number.spread])
        for table in tables for row in table.rows for key, block in row.numbers.items()
        for column in [table.columns[key]]
        for quantity, number in block.items() for title in [column.quantities.get(quantity, "")]
    ]  # fmt: skip
    compared, wrong = 0, []
    for word, asked, numbers in headed(grid):
        places = [values for name, titles, values in ours if word in name and asked and asked <= titles]
        if not places:
            continue
        compared += 1
        if not any(number in values for number in numbers for values in places):
            wrong.append(f"{word} {sorted(asked)} {numbers}")
    return compared, wrong


@pytest.mark.skipif(not SPECS.is_dir(), reason="the specifications (../shared/specs) are not here")
@pytest.mark.parametrize(("spec", "heading", "names", "rows"), SECTIONS, ids=[section[0] for section in SECTIONS])
def test_numbers_stand_under_their_headings(spec, heading, names, rows):
    tables, compared = [table for name, table in TABLES.items() if name.startswith(names)], 0
    for grid in grids(spec, heading):
        found, wrong = under_their_headings(grid, tables)
        compared += found
        assert not wrong, "\n".join(wrong)
    assert compared >= {"prompt-vit": 149, "prompt-clip": 190, "clip-fusion": 44, "locality-vit": 81, "baselines": 15}[spec]


@pytest.mark.skipif(not SPECS.is_dir(), reason="the specifications (../shared/specs) are not here")
@pytest.mark.parametrize("swapped", ["titles", "quantities"])
def test_two_headings_that_change_places_are_seen(swapped):
    table, (first, second, *_) = TABLES["pgp_table5"], TABLES["pgp_table5"].columns.items()
    if swapped == "titles":
        changed = {first[0]: replace(first[1], title=second[1].title), second[0]: replace(second[1], title=first[1].title)}
    else:
        changed = {first[0]: replace(first[1], quantities={"acc": "Forgetting", "forgetting_with_last": "ACC"})}
    other = replace(table, columns=table.columns | changed)
    grid = grids("prompt-vit", "## 11. Published numbers")[0]
    assert under_their_headings(grid, [table])[1] == [] and len(under_their_headings(grid, [other])[1]) > 5
