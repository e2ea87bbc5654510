"""Generated images as files."""

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
