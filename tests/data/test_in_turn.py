"""Data sets learned one after another: images of two sizes as one split, ranges of a task, what is counted, transfer."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from cil.commands import why
from cil.common.errors import UserError
from cil.data.images import Images, Stacked
from cil.data.registry.classes import class_list
from cil.data.scenario import InTurn
from cil.data.transforms.views import ImageSpec, views
from cil.engine.build import make
from cil.report.across import across, tables
from cil.report.numbers import Numbers
from cil.report.page import Printed, page
from cil.report.published import Number
from cil.runs.run_folder import read_matrices
from tests import harness
from tests.data.datasets import miniature
from tests.methods.test_contract import trainer_of

SMALL = ("scenario=latin_to_greek", "scenario.tasks=2", "train.epochs=1", *(
    f"dataset.{part}.{key}" for part in ("first", "second") for key in ("train_per_class=9", "test_per_class=3", "classes=4")
))  # fmt: skip


@pytest.fixture
def twin(data_root, outputs):
    """Four Latin letters in two tasks, then four Greek ones."""
    weights = ("backbone.weights=null", "backbone.sha256=null", "machine=cpu", "log.live=false")
    return lambda *words: harness.compose(f"outputs={outputs}", f"data.root={data_root}", *weights, *SMALL, *words)


def stacked(sizes=(8, 8)) -> tuple[Stacked, list[torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    parts = [torch.randint(0, 256, (n, size, 3, size), dtype=torch.uint8, generator=random) for n, size in zip((5, 7), sizes)]
    return Stacked(parts), parts


def test_splits_of_one_size_are_one_tensor():
    both, parts = stacked()
    whole = torch.cat(parts)
    assert len(both) == 12 and both.shape == (12, 8, 3, 8)
    for rows in (torch.tensor([11, 0, 4, 5, 0]), torch.tensor([1, 2]), torch.tensor([9, 6]), slice(3, 8), slice(0, 250)):
        assert torch.equal(both[rows], whole[rows])


def test_images_of_two_sizes_come_one_by_one():
    both, parts = stacked((8, 6))
    assert torch.equal(both[torch.tensor([6, 5])], parts[1][[1, 0]])  # of one part: as it gives them
    mixed = both[torch.tensor([5, 0, 6])]
    wanted = [parts[1][0], parts[0][0], parts[1][1]]
    assert all(np.array_equal(one, other.permute(0, 2, 1).numpy()) for one, other in zip(mixed, wanted, strict=True))
    view = views(ImageSpec(4, (0.5,) * 3, (0.5,) * 3), train={"crop": "whole"}, test={"crop": "whole"})[1]
    seen = view(mixed)
    alone = torch.cat([view(part[row : row + 1]) for part, row in ((parts[1], 0), (parts[0], 0), (parts[1], 1))])
    torch.testing.assert_close(seen, alone, atol=1.01 / 127.5, rtol=0)  # within a grey level


def two(heads="joint", exemplars="all", tasks=2) -> InTurn:
    both, _ = stacked()
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 3, 4, 5, 2, 3, 4])
    images = Images("one+two", both, labels, both, labels, tuple("abcdef"), (("one", 2), ("two", 4)))
    pair = views(ImageSpec(8, (0.5,) * 3, (0.5,) * 3), train={"crop": "whole"}, test={"crop": "whole"})
    return InTurn(images, pair, name="both", tasks=tasks, order="numpy:1", heads=heads, exemplars=exemplars)


def test_tasks_of_the_first_come_before_those_of_the_second():
    scenario = two()
    assert scenario.sizes == [1, 1, 2, 2] and [len(span) for span in scenario.datasets] == [2, 4]
    assert set(scenario.order[:2]) == {0, 1} and set(scenario.order[2:]) == {2, 3, 4, 5}
    assert [task.dataset for task in scenario] == [range(2), range(2), range(2, 6), range(2, 6)]
    assert [task.last for task in scenario] == [False, False, False, True]
    for task in scenario:
        assert [task.names[k - task.classes.start] for k in task.train.labels.tolist()] == [
            "abcdef"[scenario.images.train_labels[row]] for row in task.train.rows.tolist()
        ]


def test_the_variants_of_the_paper():
    assert [two()[3].rivals, two()[3].remembered] == [range(6), range(6)]
    assert [two("separate", "own")[3].rivals, two("separate", "own")[3].remembered] == [range(2, 6)] * 2
    assert [two("joint", "own")[3].rivals, two("joint", "own")[3].remembered] == [range(6), range(2, 6)]
    with pytest.raises(UserError, match=r"type scenario.exemplars=own too"):
        two("separate", "all")
    with pytest.raises(UserError, match="both: one: 2 classes cannot make 3 tasks"):
        two(tasks=3)


def test_a_name_that_both_have_is_told():
    scenario = two()
    assert scenario.notes == []
    scenario.images = replace(scenario.images, class_names=("a", "b", "c", "b", "e", "f"))
    assert scenario.notes[0].startswith("duplicate class names: b;")


def test_one_alone_is_what_it_is_in_both(twin, tmp_path):
    """The same images, names and, up to where the first ends, the same bits."""
    both, first, second = (trainer_of(twin("method=continual_clip", f"dataset.only={only}"), tmp_path / str(only))
                           for only in ("null", "first", "second"))  # fmt: skip
    for alone, tasks in ((first, both.scenario[:2]), (second, both.scenario[2:])):
        for task, own in zip(tasks, alone.scenario, strict=True):
            assert task.names == own.names
            assert torch.equal(task.test.pixels[task.test.rows], own.test.pixels[own.test.rows])


@pytest.mark.parametrize("method", ["continual_clip", "coop", "attriclip", "clip_prompt", "finetune", "joint", "class_mean"])
def test_what_a_data_set_counts_against(twin, method, tmp_path):
    """Among its own names, among all and among those of the task, image by image; and the transfer of the tables."""
    runs = [harness.execute(twin(f"method={method}", f"dataset.only={only}")) for only in ("null", "second", "first")]
    trainer = trainer_of(twin(f"method={method}"), runs[0].path / "again")
    state = runs[0].load(runs[0].newest)
    for task in trainer.scenario:
        trainer.begin(task)
    trainer.method.load_state_dict(state["method"], strict=False)
    trainer.method.eval()
    if method in ("continual_clip", "class_mean", "coop"):  # others answer from what is no part of the state
        right = {"class_il": [], "dataset_il": []}
        for task in trainer.scenario:
            with torch.no_grad():
                scores = trainer.method.predict(task.test.batch(torch.arange(len(task.test))).images)
            labels, own = task.test.labels, task.dataset
            right["class_il"].append(int((scores.argmax(1) == labels).sum()))
            right["dataset_il"].append(int((scores[:, own.start : own.stop].argmax(1) + own.start == labels).sum()))
        found = read_matrices(runs[0].path)
        for name, wanted in right.items():
            assert found[name].correct[3].tolist() == wanted
    summaries = [run.summary() for run in runs]
    outputs = runs[0].path.parents[3]
    told = across(outputs, *summaries)
    for names, one in told.items():
        assert one.forward == pytest.approx(one.second - one.second_alone)
        assert one.backward == pytest.approx(one.first - one.first_alone)
        assert one.union == pytest.approx(summaries[0]["class_il"]["acc_pooled"], abs=1e-3)
        assert one.second_alone == pytest.approx(summaries[1]["class_il"]["acc_pooled"], abs=1e-3)
        assert one.first_alone == pytest.approx(summaries[2]["class_il"]["acc_pooled"], abs=1e-3), names
    text = tables([[summaries[0]]], summaries, outputs)
    assert f"{told['own'].forward:.1f}" in text and f"{told['all'].backward:.1f}" in text and f"{told['all'].union:.1f}" in text
    with pytest.raises(UserError, match=r"type its command again with dataset.only=second"):
        tables([[summaries[0]]], summaries[:1], outputs)
    if method != "joint":  # where the first ends is a row of the run itself
        assert across(outputs, *summaries[:2]) == told
    numbers, wanted = Numbers(outputs, summaries), told["own"].forward
    assert numbers.of(summaries[0], "across.forward") == wanted
    assert numbers.of(summaries[1], "across.forward") is None  # it is what the others are compared with
    assert Numbers(outputs, summaries[:1]).of(summaries[0], "across.forward") is None
    printed = "\n".join(why.answer(runs[0].path.parents[2], "attriclip_table3:AttriCLIP"))  # counterparts lie there too
    assert f"FT: {wanted:.2f} (1) here, 0.90 printed" in printed
    beside = {summaries[0]["digest"]: Printed("row", {"across.forward": Number(wanted - 1)})}
    shown = page([summaries[:1]], numbers, title="t", published=beside)
    assert re.search(rf'<span class="n">{wanted:.1f}<i></i></span><td class="pub">[^T]*<td>\+1\.0'.replace("-", "−"), shown)
    assert told["own"].second >= told["all"].second and told["own"].first >= told["all"].first


def test_a_word_that_is_no_part(twin):
    node = twin("method=continual_clip", "dataset.only=third")["dataset"]
    with pytest.raises(UserError, match=r"dataset.only=third is not known"):
        make(node, "dataset", root="data")


def test_an_alphabet_that_is_too_short(twin, data_root):
    node = twin("dataset.second.classes=50")["dataset"]
    with pytest.raises(UserError, match="50 characters that are greek are asked for, Split-Glyphs has 20"):
        make(node, "dataset", root=str(data_root))


@pytest.mark.parametrize("method", ["continual_clip", "coop"])
def test_photographs_then_small_images(method, tmp_path):
    """ImageNet100 and CIFAR100 in miniature, as they lie on the disk; CoOp's memory mixes both in a batch."""
    train, val = miniature.imagenet(class_list("imagenet100_cmc").wnids)
    miniature.lay(train | val, tmp_path / "imagenet")
    miniature.lay(miniature.cifar100(), tmp_path)
    free = ["dataset.first.test_per_class=null", "dataset.second.md5=null", "dataset.second.images=null"]
    words = ("scenario=imagenet100_to_cifar100", "scenario.tasks=2", f"method={method}", "backbone=clip_tiny", "train.epochs=1")
    free += ["method.tune_epochs=1"] if method == "coop" else []
    config = harness.compose(
        *words, *free, f"data.root={tmp_path}", f"outputs={tmp_path}/outputs", "machine=cpu", "log.live=false"
    )
    run = harness.execute(config)
    summary = run.summary()
    assert "dataset_il" in summary
    assert read_matrices(run.path)["dataset_il"].totals.tolist() == [50, 50, 2, 2]
    assert "mirror p=0.5" in summary["identity"]["train_transform"]
