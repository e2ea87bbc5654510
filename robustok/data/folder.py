"""A folder of images: one sub-folder per class, or images alone, which then are one class."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from ..core.errors import UserError
from ..core.paths import regular_file
from .decode import BadImage, check_bytes, decode
from .groups import GROUPS, read_groups
from .listing import is_image, is_junk, look_like_splits, name_some, notes_on, refuse_same_but_case, say_suffixes


class Folder:
    """A source of images (see `images.ImageSource`) below `root`.

    Classes are the sub-folders in sorted order (by code point, as torchvision's ImageFolder sorts them); the images of
    a class, at any depth below its folder, follow in the sorted order of their paths. Hidden files and folders are
    skipped, and what systems leave behind (`listing.is_junk`); files of types that Pillow does not read are listed in
    `.ignored`. `.groups` are those of groups.csv (see `groups.read_groups`). Links to class folders and files are
    followed, links to folders further down are not (they may form loops).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []
        self.ignored: list[str] = []
        self.names: list[str] = []
        self._links: list[str] = []  # to folders, below those of classes
        folders, images = self._list_root()
        if folders and images:
            raise UserError(
                f"{root} holds images ({images[0]}, ...) beside folders ({folders[0]}, ...); "
                f"expected one sub-folder per class, or images alone"
            )
        self.kind = "folder with one sub-folder per class" if folders else "flat folder (one class)"
        self.class_names = folders or [root.resolve().name]
        labels = []
        for label, name in enumerate(self.class_names):
            found = self._list_class(name) if folders else images
            if not found:
                raise UserError(
                    f"class folder {root / name} holds no image{self._say_ignored()}; fill it or remove it, or "
                    f"give a folder whose sub-folders are all classes"
                )
            self.names += found
            labels += [label] * len(found)
        self.labels = np.array(labels, dtype=np.int64)
        self.groups = read_groups(root, self.names)
        self.notes = self._hints() + notes_on(self.names, self.ignored)
        if self._links:
            self.notes.append(f"links to folders are followed for classes alone, not for {name_some(self._links)}")

    def read(self, index: int) -> Image.Image:
        """Image `index` in RGB; raises BadImage naming its path."""
        return decode(self.read_bytes(index), str(self.root / self.names[index]))

    def read_bytes(self, index: int) -> bytes:
        """The file of image `index`; raises BadImage naming its path."""
        path = self.root / self.names[index]
        try:
            check_bytes(regular_file(path, "an image").stat().st_size, path)
            return path.read_bytes()
        except OSError as error:
            raise BadImage(f"{path}: cannot be read ({error.strerror})") from error
        except BadImage:
            raise
        except UserError as error:
            raise BadImage(str(error)) from error

    def _list_root(self) -> tuple[list[str], list[str]]:
        """Class folders and images directly below the root, sorted."""
        entries = sorted((e for e in _scan(self.root) if not is_junk(e.name)), key=lambda e: e.name)
        is_folder = {e.name: _is_folder(e) for e in entries}
        folders = [name for name, holds in is_folder.items() if holds]
        images = self._keep_images(name for name, holds in is_folder.items() if not holds and name != GROUPS)
        if not folders and not images:
            raise UserError(
                f"{self.root} holds no images{self._say_ignored()}; expected one sub-folder per class, images alone, "
                f"tar shards or Parquet files"
            )
        if folders and look_like_splits(folders):
            raise UserError(
                f"{self.root}: {', '.join(folders)} look like splits, not classes; give one of them in its place "
                f"(a run takes its validation and test images from data.root itself)"
            )
        refuse_same_but_case(folders, self.root)
        return folders, images

    def _list_class(self, name: str) -> list[str]:
        """The images at any depth below class folder `name`, as sorted paths relative to the root."""
        found = []
        for folder, subfolders, files in os.walk(self.root / name, onerror=_refuse):
            subfolders[:] = [sub for sub in subfolders if not is_junk(sub)]
            relative = os.path.relpath(folder, self.root)
            self._links += [place for sub in subfolders if os.path.islink(self.root / (place := f"{relative}/{sub}"))]
            found += [os.path.join(relative, file) for file in files if not is_junk(file)]
        return sorted(self._keep_images(found))

    def _keep_images(self, names) -> list[str]:
        kept = []
        for name in names:
            (kept if is_image(name) else self.ignored).append(name)
        return kept

    def _say_ignored(self) -> str:
        return f" (files of other types: {say_suffixes(self.ignored)})" if self.ignored else ""

    def _hints(self) -> list[str]:
        """A root one level too high: one class all of whose images lie in folders of their own."""
        if len(self.class_names) > 1:
            return []
        below = sorted({Path(name).parts[1] for name in self.names if len(Path(name).parts) > 2})
        if len(below) < 2 or any(len(Path(name).parts) < 3 for name in self.names):
            return []
        there = self.root / self.class_names[0]
        return [
            f"{self.root}: one class, whose {len(below)} folders ({', '.join(below[:3])}, ...) look like classes: "
            f"if they are, point at {there} instead"
        ]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # of links that lead back to themselves
        _refuse(error)


def _scan(folder: Path) -> Iterator[os.DirEntry]:
    try:
        return os.scandir(folder)
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"folder {error.filename} cannot be read ({error.strerror})") from error
