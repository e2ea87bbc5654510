"""groups.csv: what it may hold, that no split parts a group, and that all is as before without it."""

import hashlib
import os
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from robustok import check_data
from robustok.config import DataConfig, RunConfig
from robustok.core.cli import run_verb
from robustok.core.errors import UserError
from robustok.data import groups as reading
from robustok.data import images
from robustok.data.digits import Digits
from robustok.data.groups import read_groups, write_groups
from robustok.data.images import fingerprint, open_images, open_source
from robustok.data.splits import split, split_order
from robustok.job.decisions import decided

# Of the code before there were groups.
SPLIT_OF_DIGITS = "0a30ef6ffdecc616d87904f094467e5a926e2bdd541a55757bf1111d33ff63c4"
FINGERPRINT_OF_DIGITS = "a333cf4e63e13ab72013569594ca0a081407e5f0d404ad5b90d9d9cd544a3ead"
NAMES = ["a/0.png", "a/1.png", "a/2.png", "b/0, 1.png"]


@pytest.fixture
def grouped(photos) -> Path:
    """The 21 images of `photos` in 13 groups of one class each: pairs, single ones, and three that no line names."""
    names = open_source(photos).names
    write_groups(photos, {name: f"{name[:3]} {number // 2}" for number, name in enumerate(names[:-3])})
    return photos


def config(root: Path, **settings) -> DataConfig:
    return DataConfig(root=str(root), **{"val": 4, "test": 5, **settings})


def test_groups_are_numbered_in_the_order_of_the_lines(tmp_path):
    assert read_groups(tmp_path, NAMES) is None
    write_groups(tmp_path, {"b/0, 1.png": "x", "a/2.png": "y", "a/0.png": "x"})
    assert (tmp_path / "groups.csv").read_text() == 'image,group\n"b/0, 1.png",x\na/2.png,y\na/0.png,x\n'
    found = read_groups(tmp_path, NAMES)
    assert found.dtype == np.int64 and found.tolist() == [0, 2, 1, 0]  # a/1.png is named nowhere, and alone


TABLES = ("\ufeffimage,group\r\na/0.png,x\r\na/2.png,x\r\n", '"image","group"\na/0.png,x\na/2.png,x')


@pytest.mark.parametrize("text", TABLES)
def test_tables_as_other_programs_write_them(tmp_path, text):
    (tmp_path / "groups.csv").write_bytes(text.encode())
    assert read_groups(tmp_path, NAMES).tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"groups\.csv, line 1: found '', expected image,group"),
        (b"image;group\na/0.png;x\n", r"line 1: found 'image;group', expected image,group"),
        (b"image,group,more\n", r"line 1: found 'image,group,more', expected image,group"),
        (b"a/0.png,x\n", r"line 1: found 'a/0\.png,x', expected"),
        (b"image,group\na/0.png,x\na/9.png,x\n", r"line 3: 'a/9\.png' is no image of this folder; correct or remove"),
        (b"image,group\n./a/0.png,x\n", r"line 2: '\./a/0\.png' is no image of this folder"),
        (b"image,group\na/0.png,x\na/1.png,y\na/0.png,y\n", r"line 4: 'a/0\.png' was named before"),
        (b"image,group\na/0.png,\n", r"line 2: found 'a/0\.png,', expected an image and its group"),
        (b"image,group\na/0.png\n", r"line 2: found 'a/0\.png', expected an image and its group"),
        (b"image,group\nb/0, 1.png,x\n", r"line 2: found 'b/0, 1\.png,x', expected an image and its group"),
        (b"image,group\n\n", r"line 2: found '', expected an image and its group"),
        (b"image,group\na/\xff.png,x\n", r"groups\.csv cannot be read as a table of groups \(UnicodeDecodeError"),
        (b"image,group\n" + b"a" * 200_000, r"cannot be read as a table of groups \(Error: field larger than"),
    ],
)
def test_what_is_no_table_of_groups_is_named_with_its_line(tmp_path, content, said):
    (tmp_path / "groups.csv").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_groups(tmp_path, NAMES)


def test_a_table_without_bounds_is_refused(tmp_path, monkeypatch):
    write_groups(tmp_path, dict.fromkeys(NAMES, "x"))
    size = (tmp_path / "groups.csv").stat().st_size
    monkeypatch.setattr(reading, "_MOST_BYTES", size)
    assert read_groups(tmp_path, NAMES).tolist() == [0, 0, 0, 0]
    monkeypatch.setattr(reading, "_MOST_BYTES", size - 1)
    with pytest.raises(UserError, match=rf"groups\.csv is larger than {size - 1} bytes"):
        read_groups(tmp_path, NAMES)


def test_the_table_is_read_under_its_own_name_alone(grouped):
    before = open_source(grouped)
    assert (before.ignored, before.notes, len(before.names)) == ([], [], 21)
    (grouped / "groups.csv").rename(grouped / "Groups.csv")
    after = open_source(grouped)
    assert (after.groups, after.ignored, after.notes) == (None, ["Groups.csv"], ["files not read as images: 1 .csv"])


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_groups_beside_packed_images_are_refused(tmp_path, kind):
    (tmp_path / f"0.{kind}").write_bytes(b"")
    write_groups(tmp_path, {})
    with pytest.raises(UserError, match=r"beside groups\.csv, which is read in folders of images alone"):
        open_source(tmp_path)


def random_data(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and groups within the classes, of random numbers and sizes; the images stand in no order."""
    labels, groups = [], []
    for label in range(draw.integers(1, 7)):
        for size in draw.integers(1, draw.integers(2, 9), draw.integers(1, 16)):
            labels += [label] * size
            groups += [len(set(groups))] * size
    order = draw.permutation(len(labels))
    renamed = draw.permutation(2 * len(labels))  # of the groups: their numbers have gaps
    return np.array(labels)[order], renamed[np.array(groups)[order]]


def test_no_split_parts_a_group_and_every_class_trains():
    """Against sets and counts, over random data, sizes and seeds."""
    refused = 0
    for seed in range(120):
        draw = np.random.default_rng(seed)
        labels, groups = random_data(draw)
        names, count = [f"class {label}" for label in range(7)], len(set(groups.tolist()))
        sizes = draw.integers(2, max(3, len(labels) // 2), 2).tolist()
        held_out = [min(size, max(2, round(size * count / len(labels)))) for size in sizes]
        spare = count - len(set(labels.tolist()))
        if sum(held_out) > spare:
            with pytest.raises(UserError, match=f"hold out at most {spare} images.*each of the {count} groups of"):
                split(labels, names, *sizes, seed, groups)
            refused += 1
            continue
        parts = [part.tolist() for part in split(labels, names, *sizes, seed, groups)]
        assert sorted(chain(*parts)) == list(range(len(labels)))
        val, test, train = ({int(group) for group in groups[part]} for part in parts)
        assert not val & test and not (val | test) & train
        assert [len(val), len(test)] == held_out
        assert set(labels[parts[2]].tolist()) == set(labels.tolist())
        assert parts == [part.tolist() for part in split(labels, names, *sizes, seed, groups)]
    assert 5 < refused < 60


def test_held_out_parts_have_the_classes_shares_of_the_groups():
    """A large class of large groups beside a small one of small groups: each is held out by its groups."""
    labels = np.repeat([0, 1], [600, 40])
    groups = np.concatenate([np.repeat(np.arange(100), 6), 100 + np.arange(40)])
    for seed in range(20):
        val, test, _ = split(labels, ["a", "b"], 64, 96, seed, groups)
        for part, share in ((val, 0.1), (test, 0.15)):
            found = [len(set(groups[part][labels[part] == label].tolist())) for label in (0, 1)]
            assert all(2 * n >= int(share * total) for n, total in zip(found, (100, 40), strict=True))


def test_a_class_whose_images_are_all_held_out_with_others_is_named():
    """Class 1 has images in two groups alone, whose first images are of class 0."""
    labels = np.array([0, 1, 0, 1] + [0] * 6)
    groups = np.array([0, 0, 1, 1, 2, 3, 4, 5, 6, 7])
    named = 0
    for seed in range(40):
        try:
            train = split(labels, ["cat", "dog"], 2, 2, seed, groups)[2]
        except UserError as error:
            assert "classes without an image to train on: dog, whose images are all in groups" in str(error)
            named += 1
        else:
            assert set(labels[train].tolist()) == {0, 1}
    assert 0 < named < 40


def test_nothing_held_out_needs_no_groups(grouped):
    write_groups(grouped, dict.fromkeys(open_source(grouped).names, "one"))
    opened = open_images(config(grouped, val=0, test=0), 16)
    assert [len(part) for part in (opened.val, opened.test, opened.train)] == [0, 0, 21]


def test_without_groups_all_is_as_before_there_were_any(photos):
    """Hashes were computed by the code before groups."""
    digits = open_images(DataConfig(val=200, test=300), 32)
    ids = torch.cat([digits.val.ids, digits.test.ids, digits.train.ids])
    assert hashlib.sha256(ids.numpy().tobytes()).hexdigest() == SPLIT_OF_DIGITS
    assert digits.all.fingerprint() == FINGERPRINT_OF_DIGITS
    opened = open_images(config(photos, split_seed=3), 16)
    source, order = opened.source, split_order(opened.source.labels, opened.source.class_names, 4, 5, 3)
    assert torch.equal(torch.cat([opened.val.ids, opened.test.ids, opened.train.ids]), order)
    expected = hashlib.sha256("\0".join(source.names).encode() + source.labels.tobytes()).hexdigest()
    assert opened.all.fingerprint() == fingerprint(source.names, source.labels) == expected


def test_groups_of_one_split_as_no_groups(photos):
    alone = open_images(config(photos), 16)
    write_groups(photos, {})
    together = open_images(config(photos), 16)
    assert together.source.groups.tolist() == list(range(21))
    for name in ("val", "test", "train"):
        assert torch.equal(getattr(alone, name).ids, getattr(together, name).ids)


def test_images_of_a_group_lie_in_one_split(grouped):
    for seed in range(10):
        opened = open_images(config(grouped, split_seed=seed), 16)
        parts = (opened.val, opened.test, opened.train)
        held = [{int(group) for group in opened.source.groups[part.ids.numpy()]} for part in parts]
        assert sum(map(len, held)) == len(set(opened.source.groups.tolist())) == 13
        assert sum(map(len, parts)) == 21


def test_a_fingerprint_tells_groups_apart(grouped):
    """It is of the groups, not of their names."""

    def prints() -> list[str]:
        opened = open_images(config(grouped), 16)
        return [part.fingerprint() for part in (opened.all, opened.train)]

    first, table = prints(), grouped / "groups.csv"
    table.write_text(table.read_text().replace("Dog 0", "the first"))
    assert prints() == first
    table.write_text(table.read_text().replace("the first", "Dog 1"))
    assert prints()[0] != first[0]
    table.unlink()
    assert prints()[0] != first[0]


class GroupedDigits(Digits):
    """The digits in groups of one class, of very different sizes."""

    def __init__(self):
        super().__init__()
        draw = np.random.default_rng(0)
        self.groups = self.labels * 20 + np.minimum(draw.geometric(0.2, len(self.labels)), 19)


def test_a_run_that_goes_on_splits_as_it_began(monkeypatch):
    """What was decided is how many images were asked for, not how many the groups came to."""
    monkeypatch.setattr(images, "Digits", GroupedDigits)
    for seed in range(5):
        settings = RunConfig(data=DataConfig(split_seed=seed))
        first = open_images(settings.data, 16)
        assert first.asked == (179, 269) != (len(first.val), len(first.test))
        again = open_images(decided(settings, first, 1, "cpu")[0].data, 16)
        for name in ("val", "test", "train"):
            assert torch.equal(getattr(first, name).ids, getattr(again, name).ids)


def test_check_data_counts_the_groups(grouped, capsys):
    assert run_verb(check_data.main, [str(grouped)]) == 0
    assert "images: 21\nimage groups: 13\nignored files: 0\n" in capsys.readouterr().out
    (grouped / "groups.csv").unlink()
    assert run_verb(check_data.main, [str(grouped)]) == 0
    assert "groups" not in capsys.readouterr().out


def test_a_broken_link_in_the_place_of_the_table_is_no_absence(photos):
    os.symlink("nowhere", photos / "groups.csv")
    with pytest.raises(UserError, match=r"groups\.csv is a broken link; expected a table of groups"):
        open_source(photos)
