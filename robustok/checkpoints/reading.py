"""Finding, checking and reading our own checkpoint folders; `writing` says what is in one."""

import json
import struct
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from ..core.errors import UserError
from ..core.files import read_record, sha256
from ..core.parsing import named_in, parsing
from ..core.paths import readable_folder, regular_file
from ..core.text import say, some_of

MANIFEST = "manifest.json"
MOST_HEADER, MOST_TENSORS = 1 << 23, 100_000  # of a safetensors file: bytes of its table of contents, entries


def verify(folder: Path, names: list[str] | None = None) -> set[str]:
    """Raise UserError, naming the file, unless the files have the sizes and hashes of the folder's manifest.

    Args: names: the files whose content is hashed (None: all); sizes are compared for all files.

    Returns the names of all files that the manifest lists: no others belong to the checkpoint.
    """
    manifest = folder / MANIFEST
    try:
        files = {name: (file["bytes"], file["sha256"]) for name, file in read_record(manifest)["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{manifest} holds no sizes and hashes: no checkpoint of this package") from error
    for name, (size, digest) in files.items():
        path = named_in(folder, name, manifest)
        if not path.is_file():
            raise UserError(f"{path} is missing: {folder} is no complete checkpoint")
        found = path.stat().st_size
        if found != size:
            raise UserError(f"{path} is damaged: found {found} bytes, expected {size}")
        if (names is None or name in names) and sha256(path) != digest:
            raise UserError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}")
    return set(files)


def damage(folder: Path, names: list[str] | None = None) -> str | None:
    """What `verify` says against the checkpoint, None where it is whole."""
    try:
        verify(folder, names)
    except UserError as error:
        return str(error)
    return None


def newest_whole(stage_folder: Path) -> Path | None:
    """The newest checkpoint of a stage that `verify` accepts, None where there is no checkpoint at all.

    Newer ones that are damaged are set aside, each with a line that says what is wrong with it. Raises UserError, and
    renames nothing, where all of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for checkpoint in reversed(steps(stage_folder)):
        if (reason := damage(checkpoint)) is not None:
            damaged[checkpoint] = reason
            continue
        for other, reason in damaged.items():
            set_aside(other, f"{reason}; going on from {checkpoint.name}")
        return checkpoint
    if damaged:
        reasons = "\n  ".join(damaged.values())
        raise UserError(
            f"{stage_folder} holds no checkpoint that is whole:\n  {reasons}\nput one back from a copy, remove "
            f"{stage_folder} to begin this stage again, or start over with --resume never"
        )
    return None


def set_aside(checkpoint: Path, reason: str) -> None:
    """Renames a checkpoint that is damaged to the next free NAME.damaged, NAME.damaged.2, ..., and says why."""
    number, target = 1, checkpoint.with_name(f"{checkpoint.name}.damaged")
    while target.exists():
        number += 1
        target = checkpoint.with_name(f"{checkpoint.name}.damaged.{number}")
    checkpoint.rename(target)
    say(f"{reason} (set aside as {target})", sys.stderr)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises UserError when it is damaged, or holds more than MOST_TENSORS."""
    with parsing(path, "safetensors"):
        _check_header(path)
        return load_file(path)


def _check_header(path: Path) -> None:
    """Raises for a header that would take long to read, and for what the library does not mind: a name given twice."""
    with regular_file(path, "a file of weights").open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > MOST_HEADER:
            raise ValueError(f"a header of {size:,} bytes, expected at most {MOST_HEADER:,}")
        header = json.loads(file.read(size), object_pairs_hook=_once)
    if len(header) > MOST_TENSORS:
        raise ValueError(f"{len(header):,} tensors, expected at most {MOST_TENSORS:,}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name in the header is there twice")
    return made


def load(folder: Path, *stems: str) -> list[dict[str, Tensor]]:
    """The named safetensors files of a verified checkpoint, on the CPU. Raises UserError when one is damaged."""
    return [read_safetensors(folder / f"{stem}.safetensors") for stem in stems]


def steps(stage_folder: Path) -> list[Path]:
    """The checkpoints of a stage, oldest first."""
    numbered = [path for path in stage_folder.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(numbered, key=lambda path: int(path.name.removeprefix("step-")))


def read_stage(path: Path) -> dict[str, Any]:
    """What stage.json says of the stage of a run. Raises UserError for a best checkpoint that is not in its folder."""
    record = read_record(path)
    if record.get("best") is not None:
        named_in(path.parent, record["best"], path)
    if not isinstance(record.get("settings", {}), dict) or not isinstance(record.get("seconds", 0.0), int | float):
        raise UserError(f"{path} is no record of a stage: settings must be an object, and seconds a number")
    return record


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder meant by `path`: itself, or in a stage's folder the best, else the newest valid one.

    Raises: UserError when there is none, with the reason for each rejected one.
    """
    readable_folder(path, "a checkpoint folder")
    if (path / "config.json").is_file():
        return path
    stage = path / "stage.json"
    best = read_stage(stage).get("best") if stage.is_file() else None
    if best is not None:
        return path / best
    rejected = []
    for step in reversed(steps(path)):
        if (reason := damage(step)) is None:
            return step
        rejected.append(reason)
    inside = sorted(p.name for p in path.iterdir())
    reasons = "; ".join(rejected) or f"expected config.json or step-N folders, found {some_of(inside)}"
    raise UserError(f"{path} holds no valid checkpoint: {reasons}")
