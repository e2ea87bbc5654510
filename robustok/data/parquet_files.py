"""Which Parquet files a path names, which of their columns are images and classes, and their row groups.

pyarrow is imported here alone, and only once there is such a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import UserError
from .stamps import refuse_changed, stamp_of

KIND = "a Parquet file"
PACKAGE = "pip install 'robustok[parquet]'"
_SHARD = re.compile(r"(?P<split>[\w.]+)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?\.parquet")
_IMAGE, _LABEL = ("image", "img"), ("label", "labels")  # names that columns have as a rule


def files_of(root: Path) -> list[Path]:
    """The Parquet files of a folder: those in it, else in its folder `data`, as hubs lay them out; none: [].

    Raises UserError where they are of several splits.
    """
    files = sorted(root.glob("*.parquet")) or sorted((root / "data").glob("*.parquet"))
    splits = sorted({_split(path) or "" for path in files})
    if len(splits) > 1:
        folder = files[0].parent
        names = ", ".join(split or "files of no split" for split in splits)
        raise UserError(
            f"{folder} holds several splits ({names}); name one of them, as {folder / splits[-1]} "
            f"(validation and test images are taken from it)"
        )
    return files


def files_of_split(root: Path) -> list[Path]:
    """The files FOLDER/SPLIT-00000-of-00005.parquet, ... of the path FOLDER/SPLIT; none: []."""
    folders = (root.parent, root.parent / "data")
    found = ([path for path in sorted(f.glob("*.parquet")) if _split(path) == root.name] for f in folders)
    return next((files for files in found if files), [])


def _split(path: Path) -> str | None:
    match = _SHARD.fullmatch(path.name)
    return match["split"] if match else None


def missing_shards(files: list[Path]) -> list[str]:
    """A sentence about files that the names of the others count, but that are not there; else []."""
    matches = [match for path in files if (match := _SHARD.fullmatch(path.name))]
    there = {int(match["number"]) for match in matches}
    expected = max((int(match["count"]) for match in matches), default=0)
    if not 0 < len(there) < expected:
        return []
    first = min(set(range(expected)) - there)
    return [f"{files[0].parent}: {len(there)} of {expected} files are there; the first that is missing is {first:05d}"]


class Columns(NamedTuple):
    """What is read of a file."""

    image: str
    in_struct: bool  # the images are `bytes` of a struct, else the column itself
    label: str | None
    class_names: list[str] | None  # where the schema has them

    @property
    def path(self) -> str:
        """Of the images' bytes, as Parquet names it."""
        return f"{self.image}.bytes" if self.in_struct else self.image


class OpenFile:
    """One file: `.path`, `.columns`, and `.groups`, how many rows each row group has. Nothing stays open.

    Raises UserError for a file that is damaged or has no column of images, and where pyarrow is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._stamp = path, stamp_of(path, KIND)
        try:
            import pyarrow.parquet as pq
        except ImportError:
            raise UserError(f"{path} is a Parquet file; to read it: {PACKAGE}") from None
        try:
            self._footer = pq.read_metadata(self.path)
            schema = self._footer.schema.to_arrow_schema()
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors are of these
            raise UserError(f"{path}: not a readable Parquet file ({error})") from error
        self.columns = _columns(schema, path)
        self.groups = [self._footer.row_group(i).num_rows for i in range(self._footer.num_row_groups)]

    def image_bytes(self, group: int) -> int:
        """How many bytes the images of a row group take in memory."""
        about = self._footer.row_group(group)
        columns = (about.column(i) for i in range(about.num_columns))
        return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == self.columns.path)

    def images(self, group: int) -> Any:
        """The bytes of a row group's images, a ChunkedArray. Raises UserError if the file was replaced, ValueError or
        OSError if it cannot be read.
        """
        column = self._read([group], self.columns.path)
        if not self.columns.in_struct:
            return column
        import pyarrow.compute as pc

        return pc.struct_field(column, "bytes")

    def labels(self) -> np.ndarray:
        """The classes of all rows: int64 numbers, -1 for none, or texts (objects), "" for none."""
        if self.columns.label is None:
            return np.zeros(sum(self.groups), np.int64)
        import pyarrow as pa

        try:
            found = self._read(range(len(self.groups)), self.columns.label)
            if _is_text(found.type):
                return found.cast(pa.large_string()).fill_null("").to_numpy()
            return found.cast(pa.int64()).fill_null(-1).to_numpy()
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: its labels cannot be read ({error})") from error

    def _read(self, groups: Sequence[int], column: str) -> Any:
        import pyarrow.parquet as pq

        refuse_changed(self.path, self._stamp, KIND)
        with pq.ParquetFile(self.path, metadata=self._footer) as file:
            return file.read_row_groups(groups, columns=[column], use_threads=False).column(0)


def _columns(schema: Any, path: Path) -> Columns:
    """Those of a pyarrow schema. Raises UserError where it is not clear which they are."""
    images = [field.name for field in schema if _holds_images(field.type)]
    named = [name for name in images if name in _IMAGE] or images
    if len(named) != 1:
        found = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UserError(f"{path}: expected one column `image` of bytes, or of structs of bytes and path; found {found}")
    features = _features(schema)
    labels = [field.name for field in schema if field.name in _LABEL and _holds_labels(field.type)]
    labels = labels or [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    if len(labels) > 1:
        raise UserError(f"{path}: several columns of classes ({', '.join(labels)}); call the one to use `label`")
    names = features.get(labels[0], {}).get("names") if labels else None
    in_struct = schema.field(named[0]).type.num_fields > 0
    return Columns(named[0], in_struct, labels[0] if labels else None, names)


def _features(schema: Any) -> dict[str, Any]:
    """Features by column, as Hugging Face writes them into the metadata of a schema; {} where it did not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict) and name in schema.names}


def _holds_images(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_images(kind.field(index).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_labels(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or _is_text(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
