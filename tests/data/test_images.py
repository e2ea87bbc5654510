"""Sources, splits and loading: what is found, in which order, and that nothing but (seed, id) decides a crop."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.config import DataConfig
from robustok.core.errors import UserError
from robustok.data.images import bad_budget, open_images, open_source
from robustok.data.transforms import center_crop


def config(root, **settings) -> DataConfig:
    return DataConfig(root=None if root is None else str(root), **{"val": 4, "test": 5, **settings})


def test_digits_are_split_and_enlarged():
    images = open_images(DataConfig(val=200, test=300), 32)
    assert [len(split) for split in (images.train, images.val, images.test)] == [1297, 200, 300]
    assert images.class_names == [str(digit) for digit in range(10)]
    ids = torch.cat([images.train.ids, images.val.ids, images.test.ids])
    assert torch.equal(ids.sort().values, torch.arange(1797))

    from sklearn.datasets import load_digits

    digits = load_digits()
    row = 17
    number = int(images.train.ids[row])
    grey = Image.fromarray(np.round(digits.images[number] * 255 / 16).astype(np.uint8))
    enlarged = torch.from_numpy(np.array(grey.resize((32, 32), Image.Resampling.BICUBIC)))
    loaded = images.train.load(torch.tensor([row]))
    assert loaded.dtype == torch.uint8
    assert torch.equal(loaded[0], enlarged.expand(3, 32, 32))
    assert int(images.train.labels[row]) == digits.target[number]


def test_the_split_depends_on_its_seed_alone(photos):
    first, again, other = (open_images(config(photos, split_seed=seed), 16) for seed in (3, 3, 4))
    assert torch.equal(first.test.ids, again.test.ids)
    assert not torch.equal(first.test.ids, other.test.ids)


def test_folder_lists_classes_and_files_in_sorted_order(photos):
    source = open_source(photos)
    assert source.class_names == ["Dog", "cat", "eel"]  # by code point, as torchvision sorts
    expected = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    assert source.names == expected
    assert [source.class_names[label] for label in source.labels] == [name.split(os.sep)[0] for name in expected]


def test_evaluation_loads_the_center_crop(photos):
    images = open_images(config(photos), 16)
    with Image.open(photos / images.source.names[int(images.test.ids[2])]) as image:
        expected = np.asarray(center_crop(image, 16)).transpose(2, 0, 1)
    assert np.array_equal(images.test.load(torch.tensor([2]))[0].numpy(), expected)


def test_augmentation_depends_on_seed_and_image_alone(photos):
    train = open_images(config(photos, crop_min=0.5, flip=True), 16).train
    rows = torch.arange(len(train))
    together = train.load(rows, seed=5)
    one_by_one = torch.cat([train.load(rows[i : i + 1], seed=5) for i in range(len(rows))])
    assert torch.equal(together, one_by_one)
    assert torch.equal(train.load(rows.flip(0), seed=5).flip(0), together)
    assert not torch.equal(train.load(rows, seed=6), together)


def test_augmentation_draws_sizes_places_and_flips_evenly(tmp_path):
    ramp = np.zeros((40, 40, 3), np.uint8)
    ramp[..., 0] = np.arange(40) * 6  # red tells the column, green the row
    ramp[..., 1] = np.arange(40)[:, None] * 6
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    for number in range(1, 3):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{number}.png")
    split = open_images(config(tmp_path, val=0, test=0, crop_min=0.8, flip=True), 32).all
    index = open_source(tmp_path).names.index("ramp.png")
    crops = torch.cat([split.load(torch.tensor([index]), seed=seed) for seed in range(600)]).float()
    slope = (crops[:, 0, 0, -1] - crops[:, 0, 0, 0]) / 31  # 6 * 40 / side, negative where flipped
    sides = (240 / slope.abs()).round()
    assert 0.4 < (slope > 0).float().mean() < 0.6
    assert set(sides.tolist()) == {float(side) for side in range(32, 41)}  # 32 / 0.8 = 40
    full = crops[sides == 40]
    tops = (full[:, 1, 0, 0] / 6).round()
    assert set(tops.tolist()) == {float(top) for top in range(9)}


def test_flat_folder_is_one_class(photos):
    source = open_source(photos / "eel")
    assert source.class_names == ["eel"]
    assert len(source.names) == 8


def test_unreadable_images_are_named_and_replaced_within_their_class(photos):
    images = open_images(config(photos), 16)
    row = 3
    number, label = int(images.train.ids[row]), images.train.labels[row]
    name = images.source.names[number]
    (photos / name).write_bytes(b"broken")
    rows = torch.arange(len(images.train))
    with pytest.warns(UserWarning, match=name):
        loaded = images.train.load(rows)
    same = [other for other in rows.tolist() if other != row and images.train.labels[other] == label]
    following = min(same, key=lambda other: (other < row, other))
    assert torch.equal(loaded[row], loaded[following])


def test_too_many_unreadable_images_stop_the_run(photos):
    images = open_images(config(photos, val=0, test=0), 16)
    for name in images.source.names[2::2] + images.source.names[1:6:2]:  # 13 of 21, the first image stays
        (photos / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"11 images of 21 .* more than the 10"), pytest.warns(UserWarning):
        images.all.load(torch.arange(21))


def test_a_class_without_readable_image_is_named(photos):
    images = open_images(config(photos, val=0, test=0), 16)
    for path in (photos / "Dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no readable image of class 'Dog'"), pytest.warns(UserWarning):
        images.all.load(torch.tensor([0]))


def test_budget_is_a_thousandth_and_at_least_ten():
    assert [bad_budget(count) for count in (5, 9_999, 50_000, 1_281_167)] == [10, 10, 50, 1281]


def _add_class_of_other_case(root: Path) -> None:
    (root / "CAT").mkdir()
    (root / "CAT" / "1.png").write_bytes(b"")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda root: (root / "fox").mkdir(), r"class folder .*fox holds no image"),
        (lambda root: (root / "1.jpg").write_bytes(b""), "beside folders"),
        (_add_class_of_other_case, "differ only in case"),
        (lambda root: (root / "shard.tar").write_bytes(b""), "tar shards beside"),
        (lambda root: (root / "shards.tar.gz").write_bytes(b""), "compressed"),
    ],
)
def test_layouts_that_cannot_be_meant_are_refused(photos, change, message):
    change(photos)
    with pytest.raises(UserError, match=message):
        open_source(photos)


def test_folders_that_hold_no_classes_are_refused(photos, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images"):
        open_source(tmp_path / "empty")
    (tmp_path / "imagenet").mkdir()
    photos.rename(tmp_path / "imagenet" / "train")
    with pytest.raises(UserError, match="look like splits"):
        open_source(tmp_path / "imagenet")


def test_links_are_followed_to_files_but_not_into_loops(photos):
    (photos / "cat" / "loop").symlink_to(photos)
    (photos / "cat" / "linked.png").symlink_to(photos / "eel" / "0.png")
    names = open_source(photos).names
    assert str(Path("cat/linked.png")) in names
    assert len(names) == 22


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"val": 15, "test": 6}, "leave no image of 21 to train on; make them smaller"),
        ({"crop_min": 0.0}, "crop_min"),
        ({"crop_max": 1.5}, "crop_max"),
    ],
)
def test_settings_out_of_range_are_refused(photos, settings, message):
    with pytest.raises(UserError, match=message):
        open_images(config(photos, **settings), 16)


def test_too_few_images_to_split_ask_for_more(tmp_path):
    for number in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match="leave no image of 4 to train on; give more images, a dozen or more"):
        open_images(DataConfig(root=str(tmp_path)), 16)


def test_a_root_under_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "cat" / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source("~/photos").labels) == 1
