"""Checkpoints on disk: a folder `step-N/` of safetensors files and JSON, complete or absent, never half written.

    config.json             {"kind": "tokenizer", "config": {...}}: what `load_tokenizer` rebuilds the model from
    model.safetensors       the model;   ema.safetensors: its moving average, same names
    discriminator.safetensors   where the stage has one
    training.safetensors    optimisers and whatever else the stage needs to go on
    shard-N-....safetensors     optimisers of a network that was sharded over processes, as process N - 1 held them
    upstream.json           where the model came from a published file: what its layout needs to be written again
    source.json             and who published it, under which licence
    recipe.json             where a run's checkpoint was copied: how it was trained, and its figures (`source.py`)
    state.json              step, and the settings that this stage depends on
    manifest.json           size and SHA-256 of every other file

A checkpoint is written to a temporary name beside its place, synced and renamed; `reading.verify` checks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..core.errors import RunError
from ..core.files import remove_whole, sha256, written_whole
from .reading import MANIFEST, damage, steps


def save(
    folder: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    beside: Callable[[Path], None] | None = None,
) -> None:
    """Writes `tensors` {file stem: {name: tensor}} and `documents` {file stem: JSON value} as the checkpoint `folder`.

    beside: writes more files into the folder that it is given, which becomes the checkpoint.

    Raises RunError when the disk is full or not writable; what was there before stays, the temporary folder goes.
    """
    size = sum(value.nbytes for named in tensors.values() for value in named.values())
    try:
        with written_whole(folder, size=size) as temporary:
            temporary.mkdir()
            for stem, named in tensors.items():
                # clone: safetensors refuses tensors that share memory
                copies = {name: value.detach().cpu().contiguous().clone() for name, value in named.items()}
                write_safetensors(temporary / f"{stem}.safetensors", copies)
            if beside is not None:
                beside(temporary)
            for stem, value in documents.items():
                (temporary / f"{stem}.json").write_text(json.dumps(value, indent=1))
            files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(temporary.iterdir())}
            (temporary / MANIFEST).write_text(json.dumps({"files": files}, indent=1))
    except (OSError, RunError) as error:
        raise RunError(
            f"could not write the checkpoint {folder}: {error}; earlier checkpoints are untouched"
        ) from error


def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors that share no memory as a safetensors file. OSError where the disk fails, as of Python."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error), str(path)) from error


def keep_newest(stage_folder: Path, count: int, also: Collection[str | None] = ()) -> None:
    """Deletes all but the newest `count` checkpoints and those named in `also`, the best ones.

    Nothing is deleted while none of the newest ones has all its files at their sizes.
    """
    found = steps(stage_folder)
    if any(damage(path, []) is None for path in reversed(found[-count:])):
        for path in found[:-count]:
            if path.name not in also:
                remove_whole(path)
