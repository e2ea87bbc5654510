from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = {"cat": 7, "Dog": 6, "eel": 8}


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of 21 random PNGs of different sizes in the classes cat, Dog and eel."""
    random = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name, count in CLASSES.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            size = (*random.integers(20, 60, 2), 3)
            Image.fromarray(random.integers(0, 256, size, np.uint8)).save(root / name / f"{number}.png")
    return root
