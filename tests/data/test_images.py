import torch

import cil.common.files
from cil.common.files import keep_or_make
from cil.common.seeding import generator, stream
from cil.data.images import join


def test_batches_cover_everything_once_in_order(scenario):
    test = scenario[0].test
    batches = list(test.batches(5))
    assert [len(batch.images) for batch in batches] == [5, 5, 2]
    assert torch.equal(torch.cat([batch.indices for batch in batches]), test.rows)
    assert torch.equal(torch.cat([batch.labels for batch in batches]), test.labels)
    assert batches[0].images.shape == (5, 3, 32, 32)


def test_join_keeps_rows_and_labels(scenario):
    both = join([scenario[0].train, scenario[2].train])
    assert len(both) == len(scenario[0].train) + len(scenario[2].train)
    assert set(both.labels.tolist()) == {0, 1, 4, 5}
    assert both.take(torch.tensor([0])).labels == scenario[0].train.labels[:1]


def test_a_torn_cache_is_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": torch.arange(1000)}

    file = tmp_path / "deep" / "x.safetensors"
    for damage in (lambda: None, lambda: None, lambda: file.write_bytes(file.read_bytes()[:-9]), lambda: flip_a_bit(file)):
        if file.exists():
            damage()
        assert torch.equal(keep_or_make(file, make)["x"], torch.arange(1000))
    assert len(made) == 3  # first call, cut short, flipped; the whole file was read


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_replaced_file_is_whole_or_absent(tmp_path):
    file = tmp_path / "a.txt"
    cil.common.files.write_text(file, "first")
    try:
        with cil.common.files.replace_file(file) as temporary:
            temporary.write_text("sec")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert file.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_streams_are_named_and_apart():
    names = [(0, "order", 1, 0, 2), (0, "order", 1, 2, 0), (1, "order", 1, 0, 2), (0, "augment", 1, 0, 2)]
    assert len({stream(*name) for name in names}) == len(names)
    assert stream(0, "order", 1) == 125578804223736978  # pinned: it decides every run's batches
    assert torch.equal(torch.rand(3, generator=generator(0, "a")), torch.rand(3, generator=generator(0, "a")))
