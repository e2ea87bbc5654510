"""Checkpoints on disk: a folder `step-N/` of safetensors files and JSON, complete or absent, never half written.

    config.json             {"kind": "tokenizer", "config": {...}}: what `load_tokenizer` rebuilds the model from
    model.safetensors       the model;   ema.safetensors: its moving average, same names
    discriminator.safetensors   where the stage has one
    training.safetensors    optimisers and whatever else the stage needs to go on
    upstream.json           where the model came from a published file: what its layout needs to be written again
    source.json             and who published it, under which licence
    recipe.json             where a run's checkpoint was copied: how it was trained, and its figures (`source.py`)
    state.json              step, and the settings that this stage depends on
    manifest.json           size and SHA-256 of every other file

A checkpoint is written to a temporary name beside its place, synced and renamed; `reading.verify` checks it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..core.errors import RunError
from ..core.files import sha256, written_whole
from .reading import MANIFEST, steps


def save(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]) -> None:
    """Writes `tensors` {file stem: {name: tensor}} and `documents` {file stem: JSON value} as the checkpoint `folder`.

    Raises RunError when the disk is full or not writable; what was there before stays, the temporary folder goes.
    """
    try:
        with written_whole(folder) as temporary:
            temporary.mkdir()
            for stem, named in tensors.items():
                # clone: safetensors refuses tensors that share memory
                copies = {name: value.detach().cpu().contiguous().clone() for name, value in named.items()}
                save_file(copies, temporary / f"{stem}.safetensors")
            for stem, value in documents.items():
                (temporary / f"{stem}.json").write_text(json.dumps(value, indent=1))
            files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(temporary.iterdir())}
            (temporary / MANIFEST).write_text(json.dumps({"files": files}, indent=1))
    except OSError as error:
        raise RunError(
            f"could not write the checkpoint {folder}: {error}; earlier checkpoints are untouched"
        ) from error


def keep_newest(stage_folder: Path, count: int, also: str | None = None) -> None:
    """Deletes all but the newest `count` checkpoints (and the one named `also`, the best)."""
    for path in steps(stage_folder)[:-count]:
        if path.name != also:
            shutil.rmtree(path)
