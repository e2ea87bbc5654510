"""Tar shards give what the same folder gives; what is odd in them is left out by name and never leaves the archive."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.config import DataConfig
from robustok.core.errors import UserError
from robustok.data.decode import BadImage
from robustok.data.images import open_images, open_source


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def values(source) -> list[int]:
    return [source.read(index).getpixel((0, 0))[0] for index in range(len(source.names))]


def test_shards_of_a_folder_load_the_same_images(photos, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    names = open_source(photos).names
    for number, part in enumerate((names[:9], names[9:])):
        with tarfile.open(shards / f"{number}.tar", "w") as tar:
            for name in part:
                tar.add(photos / name, f"./{name}")
    settings = {"val": 3, "test": 4, "crop_min": 0.7, "flip": True}
    folder, packed = (open_images(DataConfig(root=str(root), **settings), 16) for root in (photos, shards))
    assert packed.class_names == folder.class_names
    rows = torch.arange(len(folder.train))
    assert torch.equal(packed.train.labels, folder.train.labels)
    assert torch.equal(packed.train.load(rows, seed=1), folder.train.load(rows, seed=1))
    assert packed.source.names[0] == f"0.tar:{names[0]}"


def test_labels_of_cls_members_and_incomplete_keys(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for key, value, label in (("x/0001", 1, b"7"), ("x/0002", 2, b"0\n"), ("x/0003", 3, b"cat")):
            add(tar, f"{key}.png", png(value))
            add(tar, f"{key}.cls", label)
            add(tar, f"{key}.json", b"{}")
        add(tar, "x/0004.png", png(4))
        add(tar, "x/0005.cls", b"1")
    source = open_source(path)
    assert values(source) == [1, 2]
    assert source.labels.tolist() == [7, 0]
    assert source.class_names == [str(label) for label in range(8)]
    assert len(source.ignored) == 3
    assert [problem.split(": ", 1)[1] for problem in source.problems] == [
        "key 'x/0003': its .cls member holds b'cat', expected the number of a class, from 0",
        "key 'x/0004': has no .cls member",
        "key 'x/0005': has no image",
    ]


@pytest.mark.parametrize(
    ("labels", "names", "classes"),
    [
        ([7, 0], [str(i) for i in range(8)], [7, 0]),
        (["eel", "cat"], ["cat", "eel"], [1, 0]),
        ([3, "a"], ["3", "a"], [0, 1]),
    ],
)
def test_labels_of_json_members(tmp_path, labels, names, classes):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for key, label in enumerate(labels):
            add(tar, f"{key}.png", png(key))
            add(tar, f"{key}.json", json.dumps({"label": label, "caption": "x"}).encode())
        for key, text in (
            ("8", b'{"caption": "x"}'),
            ("9", b"[" * 20_000),
            ("10", b'{"label": -1}'),
            ("11", b'{"label": true}'),
        ):
            add(tar, f"{key}.png", png(9))
            add(tar, f"{key}.json", text)
        add(tar, "12.png", png(9))
        add(tar, "12.txt", b"a caption")
        add(tar, "13.json", b'{"label": 1}')
        add(tar, "0.json", b'{"label": 1}')
    source = open_source(path)
    assert values(source) == [0, 1] and source.class_names == names and source.labels.tolist() == classes
    assert source.ignored == ["a.tar:12.txt"]
    found = [problem.split(": ", 1)[1] for problem in source.problems]
    assert found[0] == "member '0.json': a second one of its name"
    assert "key '12': has no .json member" in found and "key '13': has no image" in found
    assert sum("expected the number of a class, from 0, or its name, as `label`" in problem for problem in found) == 4


def test_json_without_labels_is_passed_over(tmp_path):
    """Captions beside images: classes are the folders; and .cls comes first where both are there."""
    for name, extra, names in (("a", None, ["cat", "dog"]), ("b", b"1", ["0", "1"])):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for folder in ("cat", "dog"):
                add(tar, f"{folder}/0.png", png(0))
                add(tar, f"{folder}/0.json", b'{"caption": "x"}' if extra is None else b'{"label": "x"}')
                if extra is not None:
                    add(tar, f"{folder}/0.cls", extra)
        source = open_source(tmp_path / f"{name}.tar")
        assert source.class_names == names and not source.problems and len(source.ignored) == 2


def test_only_regular_members_with_safe_names_are_read(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "good/0.png", png(10))
        add(tar, "good/link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "good/hard.png", type=tarfile.LNKTYPE, linkname="good/0.png")
        add(tar, "good/device.png", type=tarfile.CHRTYPE)
        add(tar, "../outside.png", png(20))
        add(tar, "/absolute.png", png(30))
        add(tar, "good/0.png", png(40))
        add(tar, "good/0.jpg", png(50))
        add(tar, "good", type=tarfile.DIRTYPE)
        add(tar, "good/" + "long" * 60 + ".png", png(60))
    source = open_source(path)
    assert values(source) == [10, 50, 60]
    assert len(source.problems) == 6
    assert sum("not a regular file" in problem for problem in source.problems) == 3
    assert sum("leaves the archive" in problem for problem in source.problems) == 2
    assert sum("of its name" in problem for problem in source.problems) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar"]


@pytest.mark.parametrize("missing", [1, 512, 1024, 1025, 2000, 10_240])
def test_a_shard_that_is_cut_off_keeps_its_whole_members(tmp_path, missing):
    path = tmp_path / "a.tar"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)  # some kilobytes each
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    with tarfile.open(path, "w") as tar:
        for number in range(5):
            add(tar, f"{number}.png", buffer.getvalue())
        end = tar.offset
    whole = path.read_bytes()[:end]
    path.write_bytes(whole[: end - missing])
    member = len(whole) // 5
    source = open_source(path)
    # Padding up to the next block of 512 bytes is no loss.
    padding = -len(buffer.getvalue()) % 512
    assert len(source.names) == 5 - -(-max(missing - padding, 0) // member)
    assert np.array_equal(np.asarray(source.read(len(source.names) - 1)), noise)
    assert len(source.names) == 5 or source.problems


def test_a_shard_without_end_marks_is_whole(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "0.png", png(1))
        end = tar.offset
    path.write_bytes(path.read_bytes()[:end])
    source = open_source(path)
    assert (values(source), source.problems, source.class_names) == ([1], [], ["images"])


def test_a_damaged_header_is_named_with_its_place(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(3):
            add(tar, f"{number}.png", png(number))
            if number == 0:
                second = tar.offset
    data = bytearray(path.read_bytes())
    data[second + 150] ^= 0xFF  # in the checksum of the second header
    path.write_bytes(data)
    source = open_source(path)
    assert values(source) == [0]
    assert f"damaged header at byte {second}" in source.problems[0]


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b not a tar", b"x" * 2000])
def test_files_that_are_no_tar_are_named(tmp_path, content):
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.tar"):
        open_source(tmp_path)


def test_broken_images_and_replaced_shards_are_named(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "cat/0.png", b"broken")
    source = open_source(path)
    with pytest.raises(BadImage, match=r"a\.tar:cat/0\.png \(byte 512\)"):
        source.read(0)
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    with pytest.raises(UserError, match="has changed since"):
        source.read(0)
    path.unlink()
    with pytest.raises(UserError, match=r"a\.tar does not exist; expected a tar shard"):
        source.read(0)


def test_images_in_and_outside_folders_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "cat/0.png", png(1))
        add(tar, "stray.png", png(2))
    with pytest.raises(UserError, match=r"'stray\.png' lies in no folder"):
        open_source(tmp_path)


def test_left_out_members_count_against_the_budget(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(11):
            add(tar, f"cat/{number}.png", type=tarfile.SYMTYPE, linkname="0.png")
        for number in range(20, 40):
            add(tar, f"cat/{number}.png", png(number))
    with pytest.raises(UserError, match="11 images of 20"), pytest.warns(UserWarning, match="not a regular file"):
        open_images(DataConfig(root=str(tmp_path), val=1, test=1), 8)
