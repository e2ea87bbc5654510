"""The images of a run: one source (digits, a folder, tar shards, Parquet files), split by a fixed seed into train, val
and test.
"""

import hashlib
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import DataConfig
from ..core.errors import UserError
from ..core.paths import FILE, FOLDER, NOTHING, found_at, given_path
from ..core.random import AUGMENT, keyed_words
from ..core.sizes import Size
from .decode import BadImage
from .digits import Digits
from .folder import Folder
from .groups import GROUPS
from .listing import is_image, is_junk
from .parquet import Parquet
from .parquet_files import files_of, files_of_split
from .readers import reading
from .splits import split, split_sizes
from .tars import TarShards
from .transforms import center_crop, fixed_views, random_crop, to_array

_PACKED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
BAD_SHARE, BAD_FLOOR = 0.001, 10  # up to this share of bad images are skipped, and at least this many


class ImageSource(Protocol):
    """Numbered images with labels. Images are ordered, and random draws keyed, by the image's number, its id."""

    kind: str  # what kind of source it is, for people
    class_names: list[str]
    labels: np.ndarray  # (N,) int64
    names: list[str]  # (N,) the name of each image in messages
    ignored: list[str]  # files of types that are no images
    problems: list[str]  # what is wrong with images that were left out of the list, one sentence each
    notes: list[str]  # what else a user should know of what was found, one sentence each

    # Where images are read in blocks, it also has `blocks` (splits.Blocks); where some belong together, `groups`, (N,)
    # int64 or None: no split parts images of one number.

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB; raises BadImage naming it."""

    def read_bytes(self, index: int) -> bytes:
        """The stored bytes of image `index`; raises BadImage naming it."""


class Images:
    """What `open_images` returns: `.source`, `.class_names`, `.num_classes`, the splits `.train`, `.val` (validation
    images) and `.test`, and `.all`, every image in the order of the source. `.asked`: how many were to validate and to
    test, of which splits of whole groups hold more or fewer.
    """

    def __init__(self, source: ImageSource, config: DataConfig, image_size: Size) -> None:
        self.source = source
        self.class_names = source.class_names
        self.num_classes = len(source.class_names)
        self.asked = config.val, config.test
        groups = getattr(source, "groups", None)
        held_out = split(source.labels, source.class_names, *self.asked, config.split_seed, groups)
        parts = (*held_out, torch.arange(len(source.labels)))
        bad = _BadImages(source)
        if hasattr(source, "blocks"):  # what lies together is read together
            parts = tuple(part.sort().values for part in parts)
        self.val, self.test, self.train, self.all = (ImageSplit(source, ids, config, image_size, bad) for ids in parts)


class ImageSplit:
    """A part of a source in a fixed order. `.ids` (N,) int64: numbers in the source; `.labels` (N,) int64; `.blocks`:
    how they lie together (splits.Blocks), None where each is read by itself.
    """

    def __init__(
        self, source: ImageSource, ids: Tensor, config: DataConfig, image_size: Size, bad: "_BadImages"
    ) -> None:
        self.source = source
        self.ids = ids
        self.labels = torch.from_numpy(source.labels)[ids]
        self.blocks = source.blocks.of(ids.numpy()) if hasattr(source, "blocks") else None
        self.config = config
        self.image_size = image_size
        self._bad = bad

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """See `fingerprint`, of these images."""
        groups = getattr(self.source, "groups", None)
        names = (self.source.names[index] for index in self.ids.tolist())
        return fingerprint(names, self.labels.numpy(), None if groups is None else groups[self.ids.numpy()])

    def load(self, rows: Tensor, *, seed: int | None = None) -> Tensor:
        """The images at positions `rows` (n,) of this split, uint8 (n, 3, H, W).

        seed None: the transform of evaluation (resize and centre crop). seed int: training augmentation, drawn by
        (seed, image id), so that it depends on neither the batch nor the order nor the number of processes.

        An unreadable image is named in a warning and replaced by the next readable image of its class in this split,
        so that shapes, labels and the order of everything else stay; UserError once more than 0.1 % of the source
        (and more than 10 images) are bad. Safe to call from several threads.
        """
        if seed is None:
            return self._load(rows, lambda image, _: [center_crop(image, self.image_size)])[:, 0]
        words = torch.stack(keyed_words(seed, AUGMENT, self.ids[rows], 0), 1).tolist()
        shares = {"crop_min": self.config.crop_min, "crop_max": self.config.crop_max, "flip": self.config.flip}
        return self._load(rows, lambda image, i: [random_crop(image, self.image_size, words=words[i], **shares)])[:, 0]

    def load_views(self, rows: Tensor, augment: str) -> Tensor:
        """The images at `rows` (n,) in the V fixed views of `transforms.fixed_views`, uint8 (n, V, 3, H, W)."""
        return self._load(rows, lambda image, _: fixed_views(image, self.image_size, augment))

    def _load(self, rows: Tensor, cut: Callable[[Image.Image, int], list[Image.Image]]) -> Tensor:
        """uint8 (n, V, 3, H, W): cut(image, i) for the image at each rows[i]."""
        views = [np.stack([to_array(view) for view in cut(self._read(row), i)]) for i, row in enumerate(rows.tolist())]
        return torch.from_numpy(np.stack(views))

    def _read(self, row: int) -> Image.Image:
        """The image at `row`, or the next of its class that can be read."""
        for index in self._candidates(row):
            if index in self._bad:
                continue
            try:
                with reading(self.source.names[index]):
                    return self.source.read(index)
            except BadImage as error:
                self._bad.add(index, error)
        name = self.source.class_names[int(self.labels[row])]
        raise UserError(f"no readable image of class {name!r} is left; run `python -m robustok.check_data`")

    def _candidates(self, row: int) -> Iterator[int]:
        yield int(self.ids[row])
        same_class = torch.nonzero(self.labels == self.labels[row])[:, 0].tolist()
        later = [other for other in same_class if other > row]
        earlier = [other for other in same_class if other < row]
        yield from (int(self.ids[other]) for other in later + earlier)


class _BadImages:
    """The unreadable images of a source found so far, in any split, and how many of them are accepted."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.budget = bad_budget(len(source.labels))
        self.indices: set[int] = set()
        self.lock = threading.Lock()
        say_what_was_found(source)
        self._check_budget()

    def __contains__(self, index: int) -> bool:
        return index in self.indices

    def add(self, index: int, error: BadImage) -> None:
        with self.lock:
            if index in self.indices:
                return
            self.indices.add(index)
        warnings.warn(f"skipped: {error}", stacklevel=2)
        self._check_budget()

    def _check_budget(self) -> None:
        count = len(self.indices) + len(self.source.problems)
        if count > self.budget:
            raise UserError(
                f"{count} images of {len(self.source.labels)} cannot be used, more than the {self.budget} that are "
                f"skipped; run `python -m robustok.check_data` for the list, then repair or remove them"
            )


def fingerprint(names: Iterable[str], labels: np.ndarray, groups: np.ndarray | None = None) -> str:
    """Which images these are: SHA-256 over names, labels and groups (N,) int64 in order, not over their pixels."""
    numbers = labels.tobytes() + (b"" if groups is None else groups.tobytes())
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape") + numbers).hexdigest()


def say_what_was_found(source: ImageSource) -> None:
    """Warns of what was left out of a source's list, and of what else a user should know of it."""
    for sentence in [*(f"left out: {problem}" for problem in source.problems[:10]), *source.notes]:
        warnings.warn(sentence, stacklevel=3)


def bad_budget(count: int) -> int:
    """How many bad images of `count` are skipped before a run stops."""
    return max(BAD_FLOOR, math.floor(BAD_SHARE * count))


def open_images(config: DataConfig, image_size: Size) -> Images:
    """The images of `config.root` (None: the digits), split and ready to load at `image_size`.

    The splits are drawn by `config.split_seed` (`splits.split`): first `config.val` validation images, then
    `config.test` test images, the rest to train; `splits.split_sizes` says how many where these are None. Raises
    UserError for a path, a layout or numbers that cannot work.
    """
    if not 0 < config.crop_min <= config.crop_max <= 1:
        raise UserError(
            f"data.crop_min = {config.crop_min} and data.crop_max = {config.crop_max}: "
            f"expected 0 < crop_min <= crop_max <= 1"
        )
    source = Digits() if config.root is None else open_source(config.root)
    val, test = split_sizes(source.labels, config.val, config.test)
    if min(val, test) < 0 or val + test >= len(source.labels):
        cure = (
            "give more images, a dozen or more" if config.val is None and config.test is None else "make them smaller"
        )
        raise UserError(
            f"data.val = {val} and data.test = {test} leave no image of {len(source.labels)} to train on; {cure}"
        )
    return Images(source, replace(config, val=val, test=test), image_size)


def open_source(root: str | Path) -> ImageSource:
    """The images under `root`, recognised by what lies there: a folder of images, tar shards or Parquet files, one such
    file, or the split FOLDER/SPLIT of Parquet files.
    """
    root = given_path(root)
    if (found := found_at(root)) == FILE:
        return Parquet([root]) if root.suffix == ".parquet" else TarShards([root])
    if found == NOTHING and (files := files_of_split(root)):
        return Parquet(files)
    if found != FOLDER:
        expected = "a folder of images or tar shards, a tar file, or Parquet files"
        raise UserError(f"{root} {found}; expected {expected}")
    if files := files_of(root):
        _refuse_others(root, files, "Parquet files")
        return Parquet(files)
    shards = sorted(root.glob("*.tar"))
    if packed := [path for suffix in _PACKED for path in root.glob(f"*{suffix}")]:
        raise UserError(f"{packed[0]} is compressed and cannot be read by offset; unpack it to .tar first")
    if not shards:
        return Folder(root)
    _refuse_others(root, shards, "tar shards")
    return TarShards(shards)


def _refuse_others(root: Path, files: list[Path], kind: str) -> None:
    """Raises UserError where images, shards of another kind, folders or groups lie beside the files of a source."""
    if found_at(root / GROUPS) != NOTHING:
        raise UserError(
            f"{root} holds {kind} beside {GROUPS}, which is read in folders of images alone; unpack them, or remove it"
        )
    own = {*files, *(path.parent for path in files)}
    for path in sorted(root.iterdir()):
        data = path.is_dir() or is_image(path.name) or path.suffix in (".tar", ".parquet")
        if data and path not in own and not is_junk(path.name):
            raise UserError(f"{root} holds {kind} beside {path.name}; expected one kind alone")
