"""Streams of images to judge: what they give, and what they refuse."""

import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.core.errors import UserError
from robustok.evaluation import streams
from robustok.evaluation.statistics import ImageStatistics
from robustok.evaluation.streams import open_stream


@pytest.fixture
def arrays():
    return np.random.default_rng(0).integers(0, 256, (120, 16, 16, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, arrays):
    root = tmp_path / "samples"
    root.mkdir()
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(root / f"{number:04}.png")
    return root


def pixels_of(stream) -> np.ndarray:
    batches = list(stream)
    assert all(batch.dtype == torch.uint8 and batch.ndim == 4 for batch in batches)
    return torch.cat(batches).permute(0, 2, 3, 1).numpy()


def test_a_folder_is_read_as_stored_in_order(folder, arrays):
    stream = open_stream(folder)
    assert len(stream) == 120
    assert np.array_equal(pixels_of(stream), arrays)
    assert np.array_equal(pixels_of(stream), arrays)  # more than once
    assert stream.transform == "as stored"


def test_a_tar_is_the_same(folder, arrays, tmp_path):
    with tarfile.open(tmp_path / "samples.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    assert np.array_equal(pixels_of(open_stream(tmp_path / "samples.tar")), arrays)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_piece_by_piece(tmp_path, arrays, save, monkeypatch):
    save(tmp_path / "s.npz", arrays, np.arange(120) % 10)
    monkeypatch.setattr(streams, "BATCH", 7)
    stream = open_stream(tmp_path / "s.npz")
    assert len(stream) == 120
    assert stream.labels.tolist() == [i % 10 for i in range(120)]
    assert np.array_equal(pixels_of(stream), arrays)
    assert max(len(batch) for batch in stream) == 7


def test_digits_are_cut_to_size():
    stream = open_stream("digits", 32)
    assert len(stream) == 1797
    assert next(iter(stream)).shape == (50, 3, 32, 32)
    assert "centre crop 32" in stream.transform


def test_mixed_sizes_are_refused_unless_a_size_is_asked_for(folder):
    Image.new("RGB", (20, 16)).save(folder / "9999.png")
    with pytest.raises(UserError, match=r"different sizes \(16 x 16 and 16 x 20"):
        list(open_stream(folder))
    assert pixels_of(open_stream(folder, 8)).shape == (121, 8, 8, 3)


def test_a_truncated_tar_is_named_and_refused(folder, tmp_path):
    with tarfile.open(tmp_path / "samples.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    data = (tmp_path / "samples.tar").read_bytes()
    (tmp_path / "samples.tar").write_bytes(data[: len(data) // 2 + 100])
    with pytest.warns(UserWarning, match=r"samples\.tar"), pytest.raises(UserError, match=r"more than 0\.1 %"):
        open_stream(tmp_path / "samples.tar")


def test_unreadable_images_are_named_and_stop_beyond_the_budget(folder, monkeypatch):
    (folder / "0005.png").write_bytes((folder / "0005.png").read_bytes()[:100])
    with (
        pytest.warns(UserWarning, match=r"0005\.png"),
        pytest.raises(UserError, match=r"1 unreadable images or parts, more than 0\.1 %"),
    ):
        list(open_stream(folder))
    monkeypatch.setattr(streams, "BAD_SHARE", 0.01)
    stream = open_stream(folder)
    with pytest.warns(UserWarning, match=r"left out: .*0005\.png"):
        assert len(pixels_of(stream)) == 119
    assert len(stream) == 119


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, "no array 'arr_0', found images"),
        ({"arr_0": np.array([{"a": 1}], dtype=object)}, "Python objects"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.float32)}, r"float32 .*expected uint8 .*scale to 0\.\.255"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"\(2, 3, 4, 4\), expected uint8 \(N, H, W, 3\)"),
    ],
)
def test_other_npz_files_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(UserError, match=message):
        open_stream(tmp_path / "bad.npz")


def test_damaged_and_missing_npz_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match=r"text\.npz cannot be read as an \.npz file"):
        open_stream(tmp_path / "text.npz")
    with pytest.raises(UserError, match=r"none\.npz does not exist"):
        open_stream(tmp_path / "none.npz")


def test_an_npz_of_another_size_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "s.npz", arrays)
    with pytest.raises(UserError, match="16 x 16 pixels, expected 32 x 32"):
        open_stream(tmp_path / "s.npz", 32)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_part_of_the_images_alone(folder, arrays, tmp_path, save, monkeypatch):
    save(tmp_path / "s.npz", arrays)
    monkeypatch.setattr(streams, "BATCH", 7)
    for path in (folder, tmp_path / "s.npz"):
        stream = open_stream(path)
        assert np.array_equal(pixels_of(stream.batches(21, 50)), arrays[21:50])
        assert np.array_equal(pixels_of(stream.batches(98, 1000)), arrays[98:])


def test_a_fingerprint_tells_images_apart(folder, tmp_path, arrays):
    first = open_stream(folder).fingerprint()
    assert open_stream(folder).fingerprint() == first
    (folder / "0003.png").rename(folder / "x.png")
    assert open_stream(folder).fingerprint() != first
    np.savez(tmp_path / "s.npz", arrays)
    first = open_stream(tmp_path / "s.npz").fingerprint()
    np.savez(tmp_path / "s.npz", arrays[::-1])
    assert open_stream(tmp_path / "s.npz").fingerprint() != first


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(119), r"arr_1 is int64 \(119,\), expected the class of each image, whole numbers \(120,\)"),
        (np.linspace(0, 1, 120), r"arr_1 is float64"),
        (np.array(["cat"] * 120), r"arr_1 is <U3"),
        (np.array(["cat"] * 120, dtype=object), "Python objects"),
        (np.zeros((120, 1), int), r"\(120, 1\)"),
        (np.arange(120) - 1, r"arr_1 holds -1\.\.118"),
        (np.full(120, 2**62), "arr_1 holds 4611686018427387904"),
    ],
)
def test_labels_that_are_no_classes_are_refused_on_opening(tmp_path, arrays, labels, message):
    np.savez(tmp_path / "s.npz", arrays, labels)
    with pytest.raises(UserError, match=message):
        open_stream(tmp_path / "s.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_named_whatever_is_raised_inside(tmp_path, save):
    arrays = np.random.default_rng(0).integers(0, 4, (60, 8, 8, 3), np.uint8)
    save(tmp_path / "whole.npz", arrays, np.arange(60) % 10, mu=np.zeros(3), sigma=np.eye(3), about='{"name": "a"}')
    whole = (tmp_path / "whole.npz").read_bytes()
    draw, refused = np.random.default_rng(1), 0
    path = tmp_path / "damaged.npz"
    for place in [*draw.integers(0, len(whole), 60), *draw.integers(len(whole) - 900, len(whole), 60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.integers(8)
        path.write_bytes(damaged)
        for read in (lambda: list(open_stream(path)), lambda: ImageStatistics.load(path)):
            try:
                read()
            except UserError as error:
                refused += 1
                assert "damaged.npz" in str(error)
    assert refused >= 20


def test_files_that_are_not_read_are_named(folder):
    (folder / "0.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"files not read as images: 1 \.heic"):
        assert len(open_stream(folder)) == 120
