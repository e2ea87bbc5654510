"""Data as people have them: names with dots, photos of telephones, folders of systems, roots one level off, halves."""

import io
import json
import shutil
import sys
import tarfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from robustok import pretokenize
from robustok.config import DataConfig
from robustok.core.cli import run_verb
from robustok.core.errors import UserError
from robustok.core.random import derive_seed
from robustok.data import decode as decoding
from robustok.data.decode import BadImage, decode
from robustok.data.images import open_images, open_source
from robustok.data.jsonl import import_jsonl
from robustok.data.splits import permutation, split_order
from robustok.data.survey import survey_images

FIELD = Path(__file__).parents[1] / "field"


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def fill(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number))
    return root


def test_a_packed_folder_keeps_names_with_dots(tmp_path):
    source = open_source(FIELD / "dotted_names.tar")
    assert len(source.names) == 10
    assert (source.problems, source.notes) == ([], [])
    assert np.bincount(source.labels).tolist() == [5, 5]
    with tarfile.open(FIELD / "dotted_names.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    folder = open_source(tmp_path)
    assert sorted(name.partition(":")[2] for name in source.names) == folder.names


def test_without_class_members_a_tar_gives_what_its_folder_gives(tmp_path):
    names = ["cat/a.jpg", "cat/a.seg.png", "cat/a.png", "cat/v1.00.png", "dog/b.png"]
    folder = open_source(fill(tmp_path / "images", names))
    packed = open_source(pack(tmp_path / "images.tar", {name: png() for name in names}))
    assert sorted(name.partition(":")[2] for name in packed.names) == sorted(folder.names) == sorted(names)
    for source in (folder, packed):
        assert len(source.notes) == 1
        assert "1 images are named like parts of others" in source.notes[0]
        assert "a.seg.png beside" in source.notes[0]


@pytest.mark.parametrize("order", [1, -1])
def test_with_class_members_only_the_image_of_the_key_is_taken(tmp_path, order):
    members = {
        **{"a.jpg": png(1), "a.seg.png": png(2), "a.cls": b"0"},
        **{"v1.00.png": png(3), "v1.00.cls": b"1"},
        **{"c.rgb.png": png(4), "c.cls": b"0"},  # its only image
        **{"d.left.png": png(5), "d.right.png": png(6), "d.cls": b"0"},  # either
    }
    path = pack(tmp_path / "a.tar", dict(list(members.items())[::order]))
    source = open_source(path)
    found = {name.partition(":")[2]: int(label) for name, label in zip(source.names, source.labels, strict=True)}
    assert found == {"a.jpg": 0, "v1.00.png": 1, "c.rgb.png": 0}
    assert source.ignored == ["a.tar:a.seg.png"]
    assert len(source.problems) == 1
    assert "key 'd': has several images" in source.problems[0]


def test_class_numbers_that_are_none_and_classes_without_image_are_named(tmp_path):
    members = {f"{i}.png": png(i) for i in range(3)} | {"0.cls": b"4", "1.cls": b"1", "2.cls": b"9999999999999"}
    source = open_source(pack(tmp_path / "a.tar", members))
    assert source.labels.tolist() == [4, 1]
    assert "9999999999999" in source.problems[0]
    assert "classes without an image: 0, 2, 3;" in source.notes[-1]


def test_splits_in_a_tar_are_refused_as_in_a_folder(tmp_path):
    names = ["train/cat/0.png", "train/dog/0.png", "val/cat/0.png"]
    with pytest.raises(UserError, match="train, val look like splits"):
        open_source(fill(tmp_path / "images", names))
    with pytest.raises(UserError, match="train, val in the shards look like splits"):
        open_source(pack(tmp_path / "a.tar", {name: png() for name in names}))
    assert open_source(pack(tmp_path / "a.tar", {name: png() for name in names[:2]})).class_names == [
        "train/cat",
        "train/dog",
    ]


JUNK = ["@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found", "System Volume Information", ".cache", "@EADIR"]


def test_what_systems_leave_behind_is_passed_over(tmp_path):
    names = ["cat/0.png", "dog/0.png", "dog/deep/1.png"]
    junk = [f"{name}/x.png" for name in JUNK] + [f"cat/{name}/deep/x.png" for name in JUNK]
    junk += ["cat/Thumbs.db", "Thumbs.db", "desktop.ini", ".DS_Store", "cat/.DS_Store", "__MACOSX/cat/._0.png"]
    for source in (
        open_source(fill(tmp_path / "images", names + junk)),
        open_source(pack(tmp_path / "a.tar", {name: png() for name in junk + names})),
    ):
        assert sorted(name.rpartition(":")[2] for name in source.names) == names
        assert (source.ignored, source.problems, source.notes) == ([], [], [])
    (tmp_path / "shards" / "@eaDir").mkdir(parents=True)
    shutil.copy(tmp_path / "a.tar", tmp_path / "shards")
    assert len(open_source(tmp_path / "shards").names) == 3


def test_what_cannot_be_read_is_counted_by_suffix(tmp_path):
    names = ["0.png", "1.png", "2.png", *(f"{i}.HEIC" for i in range(4)), "notes.txt", "README"]
    fill(tmp_path / "images", names)
    said = "files not read as images: 4 .heic (pip install pillow-heif to read them), 1 without suffix, 1 .txt"
    packed = pack(tmp_path / "a.tar", {name: png() for name in names})
    for source in (open_source(tmp_path / "images"), open_source(packed)):
        assert sorted(source.notes[0].split(": ")[1].split(", ")) == sorted(said.split(": ")[1].split(", "))
    with pytest.warns(UserWarning, match=r"4 \.heic"):
        open_images(DataConfig(root=str(tmp_path / "images"), val=1, test=1), 8)
    fill(tmp_path / "cats", ["cat/0.heic", "cat/1.heic", "dog/0.png"])
    with pytest.raises(UserError, match=r"cat holds no image \(files of other types: 2 \.heic \(pip install"):
        open_source(tmp_path / "cats")
    with pytest.raises(UserError, match=r"no image in .* \(members of other types: 1 \.heic"):
        open_source(pack(tmp_path / "b.tar", {"0.heic": b""}))


@pytest.fixture
def formats():
    """Pillow's formats, as they were when the test is over."""

    def forget() -> None:
        decoding.image_formats.cache_clear()
        decoding.image_suffixes.cache_clear()

    forget()
    yield forget
    Image.OPEN.pop("HEIF", None)
    Image.EXTENSION.pop(".heic", None)
    if "HEIF" in Image.ID:
        Image.ID.remove("HEIF")
    forget()


def test_photos_of_telephones_are_read_with_the_package_that_is_named(tmp_path, monkeypatch, formats):
    """A package of that name which registers a format, as pillow-heif does; without it the message names it."""
    heic = b"\0\0\0\x18ftypheic" + png(7)
    if "HEIF" not in decoding.image_formats():
        with pytest.raises(BadImage, match=r"IMG_1\.jpg.*HEIC: pip install pillow-heif"):
            decode(heic, "IMG_1.jpg")

    def opened(file, name):
        file.seek(12)
        return Image.open(io.BytesIO(file.read()), formats=["PNG"])

    def register() -> None:
        Image.register_open("HEIF", opened, lambda start: start[4:12] == b"ftypheic")
        Image.register_extension("HEIF", ".heic")

    package = ModuleType("pillow_heif")
    package.register_heif_opener = register
    package.__spec__ = ModuleSpec("pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    formats()
    (tmp_path / "0.heic").write_bytes(heic)
    assert open_source(tmp_path).read(0).getpixel((0, 0)) == (7, 7, 7)


def test_one_class_is_said_before_training_refuses_it(tmp_path):
    one = survey_images(open_source(fill(tmp_path / "a", ["0.png", "1.png"])))
    two = survey_images(open_source(fill(tmp_path / "b", ["cat/0.png", "dog/1.png"])))
    assert (len(one["notes"]), two["notes"], one["usable"]) == (1, [], True)
    assert one["notes"][0].startswith("one class: `train` asks for all networks")


def test_a_root_one_level_too_high_is_hinted_at(tmp_path):
    fill(tmp_path / "set", ["photos/cat/0.png", "photos/dog/0.png", "__MACOSX/x.png"])
    source = open_source(tmp_path / "set")
    assert source.class_names == ["photos"]
    assert len(source.notes) == 1
    assert "2 folders (cat, dog, ...) look like classes" in source.notes[0]
    assert source.notes[0].endswith(f"point at {tmp_path / 'set' / 'photos'} instead")
    fill(tmp_path / "set", ["photos/2.png"])
    assert open_source(tmp_path / "set").notes == []
    fill(tmp_path / "two", ["a/cat/0.png", "a/dog/0.png", "b/cat/0.png"])
    assert open_source(tmp_path / "two").notes == []


@pytest.mark.parametrize("file", sorted(FIELD.glob("fuzz_*.bin")), ids=lambda file: file.stem)
def test_what_a_decoder_of_pillow_raises_is_a_bad_image(file):
    with pytest.raises(BadImage, match=rf"x\.png: not a readable image \({file.stem.split('_')[2]}"):
        decode(file.read_bytes(), "x.png")


@pytest.mark.parametrize("raised", [RuntimeError, NotImplementedError, MemoryError, AttributeError, RecursionError])
def test_any_error_of_a_decoder_is_a_bad_image(monkeypatch, raised):
    def load(image):
        raise raised("inside")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(BadImage, match=rf"cat/1\.png: not a readable image \({raised.__name__}: inside"):
        decode(png(), "cat/1.png")


def test_half_of_the_lines_is_no_import(tmp_path, capsys):
    sizes = ["--codebook_size", "8", "--num_classes", "3"]
    assert run_verb(pretokenize.main, [str(FIELD / "half.jsonl"), str(tmp_path / "t"), *sizes]) == 2
    assert "100 of 102 lines are not valid, more than the 10" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", ["blank", "bom"])
def test_blank_lines_and_windows_files_lose_nothing(tmp_path, name):
    tokens, problems = import_jsonl(FIELD / f"{name}.jsonl", tmp_path / "t", codebook_size=8, num_classes=3)
    assert problems == []
    lines = [line for line in (FIELD / f"{name}.jsonl").read_text("utf-8-sig").splitlines() if line]
    assert tokens.tokens[:].tolist() == [json.loads(line)["tokens"] for line in lines]


def test_another_file_does_not_go_on_with_the_shards_of_the_first(tmp_path):
    settings = {"codebook_size": 8, "num_classes": 3}
    first = import_jsonl(FIELD / "blank.jsonl", tmp_path / "t", **settings)[0]
    again = import_jsonl(FIELD / "blank.jsonl", tmp_path / "t", **settings)[0]
    assert np.array_equal(first.tokens[:], again.tokens[:])
    with pytest.raises(UserError, match="begun with other settings"):
        import_jsonl(FIELD / "bom.jsonl", tmp_path / "t", **settings)


def parts_of(labels: np.ndarray, val: int, test: int, seed: int = 0) -> list[np.ndarray]:
    """Images of each class in (val, test, train)."""
    names = [f"class {label}" for label in range(labels.max() + 1)]
    order = split_order(labels, names, val, test, seed)
    assert torch.equal(order.sort().values, torch.arange(len(labels)))
    parts = np.split(labels[order.numpy()], [val, val + test])
    return [np.bincount(part, minlength=len(names)) for part in parts]


def test_the_digits_are_split_as_ever():
    images = open_images(DataConfig(), 8)
    plain = permutation(1797, derive_seed(0, "split"))
    assert torch.equal(torch.cat([images.val.ids, images.test.ids, images.train.ids]), plain)
    assert plain[:5].tolist() == [728, 556, 205, 1429, 787]  # as stored runs have it


@pytest.mark.parametrize("seed", range(5))
def test_splits_hold_every_class_where_it_has_enough_images(seed):
    even = np.repeat(np.arange(20), 3)  # by chance, a class without an image to train on is all but certain
    val, test, train = parts_of(even, 20, 20, seed)
    assert val.tolist() == test.tolist() == train.tolist() == [1] * 20

    uneven = np.repeat(np.arange(6), [1, 2, 3, 40, 4, 50])
    val, test, train = parts_of(uneven, 25, 25, seed)
    assert train.min() >= 1
    assert val[0] == test[0] == 0  # its only image trains
    for part in (val, test):
        share = np.bincount(uneven) / 4
        assert (2 * part[3:] >= np.floor(share[3:])).all()


def test_no_class_comes_first_in_every_small_split():
    labels = np.repeat(np.arange(100), 2)
    held = sum((parts_of(labels, 30, 30, seed)[0] for seed in range(40)), np.zeros(100))
    assert held.min() >= 2  # 12 expected
    assert held.max() <= 30


def test_classes_that_cannot_keep_an_image_are_named(tmp_path):
    for number in range(20):
        fill(tmp_path, [f"n{number:02}/0.png"])
    with pytest.raises(
        UserError, match=r"data\.val = 4 and data\.test = 5 of 20 .*: n\d\d, .*hold out at most 0 images"
    ):
        open_images(DataConfig(root=str(tmp_path), val=4, test=5), 8)
    assert len(open_images(DataConfig(root=str(tmp_path), val=0, test=0), 8).train) == 20
