"""Parquet files give what the same folder gives, by row groups; what is odd in them is named."""

import builtins
import json
import re

import numpy as np
import pytest
import torch

from robustok.check_data import main as check_data
from robustok.config import DataConfig
from robustok.core.errors import UserError
from robustok.core.random import derive_seed
from robustok.data import parquet
from robustok.data.decode import BadImage
from robustok.data.images import open_images, open_source
from robustok.data.loader import batches, shuffled
from robustok.data.parquet_files import OpenFile
from robustok.data.row_datasets import PairDataset
from robustok.data.splits import Blocks, blockwise_permutation

from .conftest import write_parquet

pa = pytest.importorskip("pyarrow")
SETTINGS = {"val": 3, "test": 4, "crop_min": 0.7, "flip": True}


def images_of(root, **settings):
    return open_images(DataConfig(root=str(root), **SETTINGS | settings), 16)


@pytest.mark.parametrize("struct", [True, False])
def test_files_of_a_folder_load_the_same_images(photos, tmp_path, struct):
    """The same images in the same splits, by name and by pixels; within a split they come as they are stored."""
    write_parquet(photos, tmp_path / "hf/data", struct=struct)
    folder, packed = images_of(photos), images_of(tmp_path / "hf")
    assert packed.class_names == folder.class_names
    assert packed.source.names[8] == "train-00001-of-00002.parquet:row 0"
    for name in ("train", "val", "test", "all"):
        theirs, ours = getattr(folder, name), getattr(packed, name)
        ids, rows = theirs.ids.sort()
        assert torch.equal(ours.ids, ids) and torch.equal(ours.labels, theirs.labels[rows])
        assert torch.equal(ours.load(torch.arange(len(ids)), seed=1), theirs.load(rows, seed=1))
    assert packed.train.fingerprint() != images_of(tmp_path / "hf", split_seed=1).train.fingerprint()


def test_a_split_is_named_by_its_path(photos, tmp_path):
    write_parquet(photos, tmp_path / "hf/data")
    write_parquet(photos, tmp_path / "hf/data", split="test")
    with pytest.raises(UserError, match=r"several splits \(test, train\); name one of them, as .*hf/data/train "):
        open_source(tmp_path / "hf")
    for root in ("hf/data/test", "hf/test"):
        source = open_source(tmp_path / root)
        assert len(source.names) == 21 and source.names[0].startswith("test-00000")
    with pytest.raises(UserError, match=r"hf/valid does not exist; expected .* Parquet files"):
        open_source(tmp_path / "hf/valid")


def test_every_row_group_is_read_once_an_epoch(photos, tmp_path, monkeypatch):
    """The order takes a window of them at a time, and no more than two windows are kept.

    What is loaded ahead, two batches of one image here, lies in the window that is read or in the next.
    """
    write_parquet(photos, tmp_path / "hf", group=3)
    read, at_most = [], []
    plain = OpenFile.images

    def images(file, group):
        read.append((file.path.name, group))
        return plain(file, group)

    monkeypatch.setattr(OpenFile, "images", images)
    monkeypatch.setattr(parquet, "WINDOW", 50_000)  # some groups of about 15 kB
    split = images_of(tmp_path / "hf", val=0, test=0).train
    blocks = split.source.blocks
    assert 2 <= blocks.at_once < len(split.source._groups) / 2
    for epoch in (0, 1):
        read.clear()
        for batch in batches(split, batch_size=1, seed=1, epoch=epoch, threads=2):
            at_most.append(len(split.source._cache.held))
            assert len(batch.inputs) == 1
        assert len(read) == len(set(read)) <= len(split.source._groups)
        assert epoch or len(read) == len(split.source._groups)  # the second epoch finds some of them in memory
    assert max(at_most) <= 2 * blocks.at_once


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_the_order_of_blocks(at_once):
    """All rows once; a window holds whole blocks and is shuffled; seeds differ, and nothing else counts."""
    numbers = np.array([5] * 4 + [7] * 3 + [1] * 4 + [2] * 5 + [9])
    blocks = Blocks(numbers, at_once)
    order = blockwise_permutation(blocks, 3)
    assert sorted(order.tolist()) == list(range(17))
    assert torch.equal(order, blockwise_permutation(Blocks(numbers.copy(), at_once), 3))
    orders = {tuple(blockwise_permutation(blocks, seed).tolist()) for seed in range(8)}
    assert len(orders) == 8
    for found in orders:
        seen = numbers[list(found)].tolist()
        where = {block: [i for i, b in enumerate(seen) if b == block] for block in set(seen)}
        begins = sorted(where, key=lambda block: where[block][0])
        windows = [begins[i : i + at_once] for i in range(0, len(begins), at_once)] if at_once == 1 else None
        if windows is not None:
            assert seen == [block for (block,) in windows for _ in where[block]]
        open_at_once = [sum(w[0] <= i <= w[-1] for w in where.values()) for i in range(17)]
        assert max(open_at_once) <= at_once


def test_pairs_are_taken_block_by_block_too(photos, tmp_path):
    write_parquet(photos, tmp_path / "hf", group=3)
    images = images_of(tmp_path / "hf").train

    class Pairs:
        folder, ids, labels = tmp_path, images.ids.repeat(2), images.labels.repeat(2)

        def __len__(self):
            return len(self.ids)

    pairs = PairDataset(images, Pairs())
    pairs.blocks = pairs.blocks._replace(at_once=1)
    groups = images.source._places[pairs.ids[shuffled(pairs, 0)].numpy(), 0]
    assert len(groups) == 28 and (np.diff(groups) != 0).sum() == len(set(groups.tolist())) - 1


def test_labels_that_name_no_class_are_left_out(photos, tmp_path):
    write_parquet(photos, tmp_path / "hf", labels=[0, 3, -1, None] + [1] * 17)
    source = open_source(tmp_path / "hf")
    assert source.labels.tolist() == [0] + [1] * 17
    assert source.problems == [
        f"train-00000-of-00002.parquet:row {row}: its label is missing or names no class" for row in (1, 2, 3)
    ]
    assert source.notes == [
        "classes without an image: eel; the largest label is 2, so that a generator makes images of these, too"
    ]
    assert source.read(1).size == open_source(photos).read(4).size


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([3, 1] * 10 + [0], None, ["0", "1", "2", "3"]),
        (["b", "a"] * 10 + [None], None, ["a", "b"]),
        (None, None, ["images"]),
    ],
)
def test_classes_without_metadata(photos, tmp_path, labels, names, expected):
    write_parquet(photos, tmp_path / "hf", labels=labels, names=names)
    source = open_source(tmp_path / "hf")
    assert source.class_names == expected
    texts = labels and isinstance(labels[0], str)
    assert source.labels[:2].tolist() == ([1, 0] if texts else labels[:2] if labels else [0, 0])
    assert len(source.labels) == (20 if texts else 21)


def test_images_that_cannot_be_read_are_named(photos, tmp_path):
    files = write_parquet(photos, tmp_path / "hf", spoiled={2: b"broken", 9: None})
    source = open_source(tmp_path / "hf")
    with pytest.raises(BadImage, match=r"train-00000-of-00002\.parquet:row 2: not a readable image"):
        source.read(2)
    with pytest.raises(BadImage, match=r"train-00001-of-00002\.parquet:row 1: has no bytes"):
        source.read(9)
    data = bytearray(files[0].read_bytes())
    data[4:60] = b"\xff" * 56  # the header of the first page
    files[0].write_bytes(data)
    with pytest.raises(BadImage, match=r"row 0: its row group cannot be read"):
        open_source(tmp_path / "hf").read(0)
    with pytest.raises(UserError, match="has changed since it was indexed"):
        source.read(5)  # of a group that is not in memory


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_files_that_are_no_parquet(tmp_path, content):
    (tmp_path / "0000.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"0000\.parquet: not a readable Parquet file"):
        open_source(tmp_path)


def test_columns_that_are_not_clear(tmp_path):
    import pyarrow.parquet as pq

    def write(**columns):
        table = pa.table(columns)
        features = {name: {"_type": "ClassLabel", "names": ["a"]} for name in columns if name.endswith("class")}
        about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        pq.write_table(table.replace_schema_metadata(about), tmp_path / "0000.parquet")

    picture = [b"x"]
    write(text=["a"], number=[1])
    with pytest.raises(UserError, match=r"expected one column `image` .* found text \(string\), number \(int64\)"):
        open_source(tmp_path)
    write(left=picture, right=picture)
    with pytest.raises(UserError, match="expected one column `image`"):
        open_source(tmp_path)
    write(scan=picture, fine_class=[0], coarse_class=[0])
    with pytest.raises(UserError, match=r"several columns of classes \(fine_class, coarse_class\); call the one"):
        open_source(tmp_path)
    write(scan=picture, caption=["a"], coarse_class=[0])
    assert open_source(tmp_path / "0000.parquet").class_names == ["a"]


def test_what_does_not_belong_together(photos, tmp_path):
    files = write_parquet(photos, tmp_path / "hf")
    source = open_source(tmp_path / "hf/train")
    assert source.notes == []
    files[0].unlink()
    note = open_source(tmp_path / "hf").notes[0]
    assert note.endswith("1 of 2 files are there; the first that is missing is 00000")
    write_parquet(photos, tmp_path / "hf", names=["x", "y", "z"], only=0)
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet: other columns or classes than in train-00000"):
        open_source(tmp_path / "hf")
    (tmp_path / "hf" / "cats").mkdir()
    with pytest.raises(UserError, match="holds Parquet files beside cats"):
        open_source(tmp_path / "hf")


def test_row_groups_that_are_too_large(photos, tmp_path, monkeypatch):
    write_parquet(photos, tmp_path / "hf")
    monkeypatch.setattr(parquet, "LARGEST_GROUP", 1 << 10)
    with pytest.raises(UserError, match=r"row group 0 holds 0 MiB of images.*row_group_size"):
        open_source(tmp_path / "hf")


def test_without_pyarrow_the_message_says_how_to_get_it(photos, tmp_path, monkeypatch):
    write_parquet(photos, tmp_path / "hf")
    plain = builtins.__import__

    def without(name, *args, **settings):
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return plain(name, *args, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    assert len(open_source(photos).names) == 21
    with pytest.raises(UserError, match=re.escape("pip install 'robustok[parquet]'")):
        open_source(tmp_path / "hf")


def test_check_data_knows_them(photos, tmp_path, capsys):
    write_parquet(photos, tmp_path / "hf", spoiled={2: b"broken"})
    assert check_data([str(tmp_path / "hf"), "--json", "--sheet", str(tmp_path / "sheet.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["images"]) == ("Parquet files", 21)
    assert found["classes"] == {"Dog": 6, "cat": 7, "eel": 8}
    assert "row 2: not a readable image" in found["bad"][0]
    assert (tmp_path / "sheet.png").is_file()


def test_the_order_is_known_by_seed_and_epoch_alone(photos, tmp_path):
    """Written out: windows of row groups, each shuffled."""
    write_parquet(photos, tmp_path / "hf", group=3)
    split = images_of(tmp_path / "hf").train
    found = torch.cat([batch.rows for batch in batches(split, batch_size=7, seed=5, epoch=2)])
    assert torch.equal(found, blockwise_permutation(split.blocks, derive_seed(5, "order", 2))[:14])
