"""Generated images as files."""

import os

import numpy as np

from robustok.generation.image_writer import ImageWriter


def test_what_killed_processes_left_goes_with_the_last_step(tmp_path):
    images, ids, classes = np.zeros((2, 4, 4, 3), np.uint8), np.arange(2), np.array([5, 5])
    files = ImageWriter(tmp_path, ("png", "npz"), 2)
    for leftover in ("png/5/.00000001.png", ".samples.npz"):
        path = tmp_path / f"{leftover}.0123456789abcdef.tmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    files.write(0, ids, images, classes)
    files.finish(classes)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "00000000.png",
        "00000001.png",
        "images",  # the lock
        "samples.npz",
    ]


def test_an_npz_is_the_same_whenever_its_images_were_made(tmp_path):
    images, ids, classes = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3), np.arange(2), np.array([5, 6])
    made = []
    for year in (10, 20):
        folder = tmp_path / str(year)
        files = ImageWriter(folder, ("npz",), 2)
        files.write(0, ids, images, classes)
        os.utime(folder / "images.npy", (year * 365 * 24 * 3600 + 5e8,) * 2)
        files.finish(classes)
        files.finish(classes)  # again, after a kill in what follows
        made.append((folder / "samples.npz").read_bytes())
        with np.load(folder / "samples.npz") as found:
            assert np.array_equal(found["arr_0"], images) and np.array_equal(found["arr_1"], classes)
    assert made[0] == made[1]
