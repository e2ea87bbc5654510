"""Shards of what a tokenizer makes of images, memory-mapped: what token shards and latent shards have in common.

A folder holds `shard-00000/`, `shard-00001/`, ... with one array of rows, labels.npy (n,) int64 and ids.npy (n,) int64
each, and manifest.json, which says what the rows are and how many. A shard is written under a temporary name and
renamed, so a shard that exists is complete, and interrupted work resumes with the missing shards. Several processes may
write different shards of one folder.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.files import read_record, remove_leftovers, write_json, written_whole
from ..core.locks import hold
from ..core.parsing import named_in, parsing
from ..core.paths import regular_file
from ..core.setting_names import what_results_depend_on
from ..core.text import some_of
from ..models.interfaces import TrainableTokenizer

VERSION = 1
WRITE_AGAIN = "remove its shard and run the same command again"


class Rows:
    """The rows of all shards as one array: `.shape`, `len()`, and `rows[index]` with an int, slice or index array.

    Indexing copies the rows asked for into memory; everything else stays on disk, mapped.
    """

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0] + [len(part) for part in parts])
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        rows = self._numbers(index)
        part = np.searchsorted(self.starts, rows, side="right") - 1
        out = np.empty((*rows.shape, *self.shape[1:]), self.parts[0].dtype)
        for number in np.unique(part):
            here = part == number
            out[here] = self.parts[number][rows[here] - self.starts[number]]
        return out

    def _numbers(self, index: int | slice | np.ndarray) -> np.ndarray:
        """The rows that `index` asks for, as numbers from 0; takes memory for those alone. Raises IndexError."""
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        rows = np.asarray(index)
        if rows.dtype == bool:
            return np.flatnonzero(rows)
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of {len(self)} rows")
        return np.where(rows < 0, rows + len(self), rows)


class RowSet(ABC):
    """A finished folder. `.rows` Rows; `.labels`, `.ids` (N,) int64 tensors; `.manifest` dict with tokenizer,
    class_names and whatever else its writer was given.
    """

    kind: ClassVar[str]  # for people: "token shards"
    array: ClassVar[str]  # name of the file of rows, without .npy
    dtype: ClassVar[type]  # of the rows, in NumPy
    mark: ClassVar[str]  # the entry of the manifest that only this kind has

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder, self.kind)
        if self.mark not in self.manifest:
            raise UserError(f"{folder}: expected {self.kind}, but its manifest.json has no {self.mark}")
        if not self.manifest["shards"]:
            raise UserError(f"{folder}: holds no {self.array}")
        self.rows = Rows(self.mapped(self.array, self.dtype))
        self.labels = torch.from_numpy(np.concatenate(self.mapped("labels", np.int64, 1)))
        self.ids = torch.from_numpy(np.concatenate(self.mapped("ids", np.int64, 1)))
        classes = len(self.manifest["class_names"])
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            found = f"{int(self.labels.min())}..{int(self.labels.max())}"
            raise UserError(f"{folder}: labels {found} of the {classes} classes in manifest.json; write it again")
        counts = {len(self.rows), len(self.labels), len(self.ids), self.manifest["count"]}
        if len(counts) > 1:
            raise UserError(
                f"{folder}: shards and manifest.json differ in their number of rows ({counts}); write it again"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """The rows of these numbers, as models take them."""

    def mapped(self, name: str, dtype: type, dims: int | None = None) -> list[np.ndarray]:
        """One array of every shard. dims None: two or more, all but the first the same in every shard.

        Raises UserError naming a file that cannot be read, or that holds something else.
        """
        where = self.folder / "manifest.json"
        paths = [named_in(self.folder, shard, where) / f"{name}.npy" for shard in self.manifest["shards"]]
        arrays = [map_array(path) for path in paths]
        for path, array in zip(paths, arrays, strict=True):
            fits = array.ndim == dims if dims else array.ndim > 1 and array.shape[1:] == arrays[0].shape[1:]
            if array.dtype != dtype or not fits:
                first = f"({dims} axes)" if dims else f"(rows, ...), as in {paths[0]}"
                found = f"{array.dtype} {array.shape}, expected {np.dtype(dtype)} {first}"
                raise UserError(f"{path}: {found}; {WRITE_AGAIN}")
        return arrays


class RowWriter(ABC):
    """Writes a folder of shards, shard by shard, in any order and from any number of processes.

    `about` says what the rows are and must have `tokenizer` (its hash, `tokenizer_hash`) and `class_names`; opening a
    folder that was begun with other values raises UserError.
    """

    result: ClassVar[type[RowSet]]  # what the finished folder opens as

    def __init__(self, folder: str | Path, about: dict[str, Any], *, shard_rows: int = 8192) -> None:
        self.folder, self.shard_rows = Path(folder), shard_rows
        self.about = json.loads(json.dumps({"version": VERSION, **about, "shard_rows": shard_rows}))
        begun = self.folder / "begun.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if begun.exists():
            _refuse_other(begun, self.about)
        else:
            write_json(begun, self.about)

    def shard_range(self, number: int, count: int) -> range:
        """The rows of shard `number` when there are `count` rows in all."""
        return range(number * self.shard_rows, min((number + 1) * self.shard_rows, count))

    def missing(self, count: int, *, rank: int = 0, world: int = 1) -> list[int]:
        """The numbers of the shards that process `rank` still has to write, when there are `count` rows in all.

        Each process has every `world`-th shard, whatever the others have written in the meantime.
        """
        numbers = range(rank, -(-count // self.shard_rows), world)
        return [number for number in numbers if not (self.folder / _shard_name(number)).exists()]

    @abstractmethod
    def arrays(self, rows: Tensor) -> dict[str, np.ndarray]:
        """What is stored of a shard's rows, by file name. Raises an error for rows that cannot be right."""

    def summary(self, shards: list[str]) -> dict[str, Any]:
        """Entries of the manifest that are known when all shards are written."""
        return {}

    def write(self, number: int, rows: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Shard `number`: rows (n, ...), labels (n,), ids (n,)."""
        arrays = self.arrays(rows)
        with written_whole(self.folder / _shard_name(number)) as temporary:
            temporary.mkdir()
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array)
            np.save(temporary / "labels.npy", labels.cpu().numpy().astype(np.int64))
            np.save(temporary / "ids.npy", ids.cpu().numpy().astype(np.int64))

    def write_all(self, rows: Tensor, labels: Tensor, ids: Tensor) -> RowSet:
        """Writes rows that are in memory, and finishes the folder."""
        for number in self.missing(len(rows)):
            here = self.shard_range(number, len(rows))
            part = slice(here.start, here.stop)
            self.write(number, rows[part], labels[part], ids[part])
        return self.finish(len(rows))

    def finish(self, count: int) -> Any:
        """Writes manifest.json over `count` rows and opens the result. ValueError while shards are missing."""
        if missing := self.missing(count):
            raise ValueError(f"{self.folder}: shards {some_of(missing)} are not written yet")
        with hold(self.folder / ".lock"):  # jobs of an array may all find that nothing is missing
            return self._finish(count)

    def _finish(self, count: int) -> Any:
        remove_leftovers(self.folder)
        shards = [_shard_name(number) for number in range(-(-count // self.shard_rows))]
        manifest = {**self.about, "count": count, "shards": shards, **self.summary(shards)}
        write_json(self.folder / "manifest.json", manifest)
        return self.result(self.folder)


def is_row_folder(path: str | Path) -> bool:
    """True for a folder in which a RowWriter has begun or finished."""
    return any((Path(path) / name).is_file() for name in ("manifest.json", "begun.json"))


def read_manifest(folder: str | Path, kind: str = "shards") -> dict[str, Any]:
    """manifest.json of a finished folder; raises UserError for anything else, saying what is wrong with it."""
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        begun = (folder / "begun.json").exists()
        state = "was begun but not finished; run the same command again" if begun else "has no manifest.json"
        raise UserError(f"{folder}: expected a folder of {kind}, but it {state}")
    manifest = read_record(folder / "manifest.json")
    if manifest.get("version") != VERSION:
        raise UserError(f"{folder}: {kind} of version {manifest.get('version')!r:.60}, expected {VERSION}")
    lists = [manifest.get(name) for name in ("shards", "class_names")]
    of_names = all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)
    if not of_names or type(manifest.get("count")) is not int or not isinstance(manifest.get("tokenizer"), str | None):
        expected = "shards and class_names (lists of names), count (a whole number) and tokenizer (its hash, or null)"
        raise UserError(f"{folder / 'manifest.json'} is no manifest of {kind}: expected {expected}; write it again")
    return manifest


def tokenizer_hash(tokenizer: TrainableTokenizer) -> str:
    """SHA-256 of the encoder's parameters and the codebook, on which rows depend; post-training keeps it."""
    digest = hashlib.sha256()
    for parameter in tokenizer.encoder_parameters():
        digest.update(parameter.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}"


def map_array(path: Path) -> np.ndarray:
    """An .npy file, memory-mapped. Raises UserError naming it where it is damaged."""
    with parsing(path, "an .npy file", WRITE_AGAIN):
        return np.lib.format.open_memmap(regular_file(path), mode="r")  # plain values alone, never more than there are


def _refuse_other(begun: Path, about: dict[str, Any]) -> None:
    found = read_record(begun)
    if "settings" in found:
        found["settings"] = what_results_depend_on(found["settings"])
    if other := [key for key in sorted(found.keys() | about.keys()) if found.get(key) != about.get(key)]:
        values = "; ".join(f"{key} {found.get(key)!r:.60} there, {about.get(key)!r:.60} now" for key in other)
        raise UserError(f"{begun.parent}: was begun with other settings ({values}); choose another folder or remove it")
