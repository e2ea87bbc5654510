"""Generated images on request: tar shards, a memory-mapped .npy, ADM's .npz, or single PNG files."""

import io
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..core.files import remove_leftovers, write_bytes, written_whole
from ..core.locks import hold

KINDS = ("tar", "npy", "npz", "png")
ARRAY = "images.npy"  # uint8 (N, H, W, 3), which the .npz is made from
COPIED = 1 << 24  # bytes at a time


class ImageWriter:
    """Writes shards of images, in any order and from any process; a shard written twice is the same.

    kinds: some of KINDS. tar: images/shard-00000.tar with 00000000.png and its class in 00000000.cls; png:
    png/CLASS/00000000.png; npy: images.npy, uint8 (N, H, W, 3); npz: samples.npz with arr_0 (the same) and arr_1 (N,).
    """

    def __init__(self, folder: Path, kinds: Sequence[str], count: int):
        self.folder, self.kinds, self.count = folder, kinds, count

    def write(self, number: int, ids: np.ndarray, images: np.ndarray, classes: np.ndarray) -> None:
        """Writes shard `number`: images uint8 (n, H, W, 3) with their ids and classes (n,)."""
        if "npy" in self.kinds or "npz" in self.kinds:
            array = self._array(images.shape[1:])
            array[ids] = images
            array.flush()  # on the disk before the shard counts as done
        if "tar" in self.kinds:
            self._write_tar(number, ids, images, classes)
        if "png" in self.kinds:
            for i, image, label in zip(ids, images, classes, strict=True):
                # a sync of each would cost more than making them
                write_bytes(self.folder / f"png/{label}/{i:08d}.png", _png(image), sync=False)

    def finish(self, classes: np.ndarray) -> None:
        """Makes the .npz out of the .npy, piece by piece. All shards are written, and nobody writes any more."""
        for folder in (self.folder, *self.folder.glob("png/*")):
            remove_leftovers(folder)
        array, samples = self.folder / ARRAY, self.folder / "samples.npz"
        if "npz" not in self.kinds or (samples.is_file() and not array.is_file()):  # made before a process was killed
            return
        with written_whole(samples) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            # opened, not `write`, which would put in when the images were made: the same sample has the same bytes
            with open(array, "rb") as images, archive.open("arr_0.npy", "w", force_zip64=True) as file:
                shutil.copyfileobj(images, file, COPIED)
            with archive.open("arr_1.npy", "w") as file:
                np.save(file, classes)
        if "npy" not in self.kinds:
            array.unlink()

    def _array(self, shape: tuple[int, ...]) -> np.ndarray:
        """The .npy file. The first process that comes makes it at its full size, still empty."""
        header, path = io.BytesIO(), self.folder / ARRAY
        about = {"descr": "|u1", "fortran_order": False, "shape": (self.count, *shape)}
        np.lib.format.write_array_header_1_0(header, about)
        size = header.tell() + self.count * int(np.prod(shape))
        with hold(self.folder / "claims/images"), open(path, "ab") as file:
            if file.tell() != size:  # new, or left by a process that was killed right here
                file.truncate(0)
                file.write(header.getvalue())
                file.truncate(size)
        return np.lib.format.open_memmap(path, mode="r+")

    def _write_tar(self, number: int, ids: np.ndarray, images: np.ndarray, classes: np.ndarray) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for i, image, label in zip(ids, images, classes, strict=True):
                for suffix, data in (("png", _png(image)), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{i:08d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        write_bytes(self.folder / f"images/shard-{number:05d}.tar", buffer.getvalue())


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()
