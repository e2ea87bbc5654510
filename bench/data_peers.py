"""Decoding by Pillow alone, in processes of its own: what loading training batches is compared with."""

import io
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

SHAPE = (375, 500)  # height and width of a typical photo of ImageNet


def write_photos(folder: Path, count: int) -> Path:
    """JPEGs of parts of scikit-learn's two photographs, in two classes."""
    from sklearn.datasets import load_sample_images

    pictures, draw = load_sample_images().images, np.random.default_rng(0)
    for number in range(count):
        picture = pictures[number % 2]
        top, left = (draw.integers(0, side - part + 1) for side, part in zip(picture.shape, SHAPE, strict=False))
        part = Image.fromarray(picture[top : top + SHAPE[0], left : left + SHAPE[1]])
        (folder / str(number % 2)).mkdir(parents=True, exist_ok=True)
        part.save(folder / str(number % 2) / f"{number:05d}.jpg", quality=95)
    return folder


def write_tar(photos: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for photo in sorted(photos.rglob("*.jpg")):
            tar.add(photo, str(photo.relative_to(photos)))
    return path


def write_parquet(photos: Path, path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(photos.rglob("*.jpg"))
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [int(file.parent.name) for file in files]
    pq.write_table(pa.table({"image": rows, "label": labels}), path, row_group_size=100)
    return path


class PillowAlone:
    """One process for each core, and in each a loop over files: nothing waits for anything."""

    def __init__(self, files: list[Path], size: int, cores: int):
        # forked: a new interpreter would not find this file, which pytest imports without its folder on the path
        self.pool = ProcessPoolExecutor(cores, mp_context=get_context("fork"))
        self.parts = [(files[core::cores], size) for core in range(cores)]

    def crops(self) -> list[np.ndarray]:
        """Of all files, as training batches have them: the last one of each process comes back."""
        return list(self.pool.map(_crops, self.parts))

    def decoded(self) -> list[np.ndarray]:
        """Decoded, and nothing else."""
        return list(self.pool.map(_decoded, self.parts))

    def close(self) -> None:
        self.pool.shutdown()


def centre_crop(data: bytes, size: int) -> np.ndarray:
    """The crop of evaluation, of photos less than twice as large as it."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _crops(part: tuple[list[Path], int]) -> np.ndarray:
    files, size = part
    out = np.empty((len(files), 3, size, size), np.uint8)
    for row, file in enumerate(files):
        out[row] = centre_crop(file.read_bytes(), size).transpose(2, 0, 1)
    return out[-1]


def _decoded(part: tuple[list[Path], int]) -> np.ndarray:
    for file in part[0]:
        image = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
    return np.asarray(image)
