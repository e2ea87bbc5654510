"""The folder of one run, runs/NAME/: its lock, its resolved config, its log, and what each stage has finished."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Collection, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml

from ..checkpoints.reading import read_stage
from ..checkpoints.stored_settings import refuse_other_settings
from ..config import RunConfig
from ..core import distributed
from ..core.device import resolve_device
from ..core.errors import UserError
from ..core.files import explained_full_disk, remove_leftovers, write_bytes, write_json
from ..core.locks import claim, holder
from ..core.paths import given_path
from ..core.setting_names import what_results_depend_on
from ..core.text import say
from ..models.registry import sections_of
from .trackers import Trackers


class Run:
    """An open run. Only the main process locks and writes; all processes read.

    Raises UserError when a living process already uses the folder.
    """

    def __init__(self, config: RunConfig):
        self.config = config
        self.device = resolve_device(config.device)
        self.folder = given_path(config.runs) / config.name
        self.images_fingerprint: str | None = None  # which images the run sees; its stages depend on them
        if distributed.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _claim(self.folder)
            for folder in (self.folder, *filter(Path.is_dir, self.folder.rglob("*"))):
                remove_leftovers(folder)  # of processes that were killed: whoever lives holds the lock
            self._log = self._open_log()
            self._told: set[tuple[str, str]] = set()  # stages and names of the log's events
            self._trackers = Trackers(self.folder, _plain(asdict(config)))
        distributed.barrier()

    def close(self) -> None:
        if not distributed.is_main():
            return
        self._log.close()
        try:
            self._trackers.close()
        finally:
            self._lock.close()

    @property
    def bfloat16(self) -> bool:
        """Whether networks compute in bfloat16: settings ask for it, or say auto and the device is made for it."""
        wanted = self.config.precision
        fast = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return wanted == "bfloat16" or (wanted == "auto" and fast)

    def autocast(self):
        """bfloat16 autocast, where networks compute in it."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def settings(self, sections: Collection[str]) -> dict[str, Any]:
        """What a stage's result depends on: these sections of the config, and which images there are.

        "tokenizer", "generator" and "sampling" mean the sections of the families that the run trains.
        """
        names = sections_of(self.config, sections)
        if not any(getattr(getattr(self.config, name), "keep_best_by", None) for name in names):
            names.discard("validation")  # it watches, and chooses nothing
        values = {name: _plain(value) for name, value in asdict(self.config).items() if name in names}
        return {**what_results_depend_on(values), "images": self.images_fingerprint}

    def write_config(self) -> None:
        """config.yaml, the resolved settings: once a stage has accepted them."""
        if distributed.is_main():
            text = yaml.safe_dump(_plain(asdict(self.config)), sort_keys=False)
            write_bytes(self.folder / "config.yaml", text.encode())

    def stage_record(self, folder: str) -> dict[str, Any]:
        """What stage.json says of the stage in this folder of the run; empty before it has ended once."""
        path = self.folder / folder / "stage.json"
        return read_stage(path) if path.is_file() else {}

    def is_finished(self, folder: str, sections: Collection[str]) -> bool:
        """True for a stage that ended under these settings. Raises UserError if it ended under others."""
        record = self.stage_record(folder)
        if not record.get("finished"):
            return False
        refuse_other_settings(record.get("settings", {}), self.settings(sections), self.folder / folder)
        return True

    def update_stage(self, folder: str, **values: Any) -> None:
        """Changes these values of the stage's record (main process only)."""
        if distributed.is_main():
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
            write_json(self.folder / folder / "stage.json", {**self.stage_record(folder), **values})

    @contextmanager
    def finishing(self, folder: str, sections: Collection[str]):
        """Times a stage without checkpoints of its own, and marks it finished if its body raises nothing."""
        self.write_config()
        start = time.monotonic()
        yield
        seconds = round(time.monotonic() - start, 2)
        self.update_stage(folder, finished=True, seconds=seconds, settings=self.settings(sections))
        distributed.barrier()

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """One line of log.jsonl and one point a value in every tracker (main process only).

        Raises RunError where the disk is full.
        """
        if distributed.is_main():
            self._write_line({"stage": stage, "step": step, **values})
            self._trackers.log(stage, step, values)

    def event(self, stage: str, step: int, name: str, text: str, *, once: bool = False) -> None:
        """What a person should know: on standard error, in log.jsonl and in every tracker (main process only).

        once: not where the log has such an event of this stage already.
        """
        if distributed.is_main() and not (once and (stage, name) in self._told):
            self._told.add((stage, name))
            say(f"{stage}, step {step}: {text}", sys.stderr)
            self._write_line({"stage": stage, "step": step, "event": name, "text": text})
            self._trackers.note(stage, step, text)

    def _write_line(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        with explained_full_disk(self.folder / "log.jsonl", len(line)):
            if self._log.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def forget_log_after(self, stage: str, step: int) -> None:
        """Drops the stage's lines after `step`: those steps are about to be taken again."""
        if not distributed.is_main():
            return
        path = self.folder / "log.jsonl"
        kept = [line for line in read_log(path) if line["stage"] != stage or line["step"] <= step]
        self._told = {(line["stage"], line["event"]) for line in kept if "event" in line}
        self._log.close()
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._log = self._open_log()

    def _open_log(self) -> FileIO:
        """log.jsonl at its end; a line is one write to the system, so no line waits in memory."""
        return (self.folder / "log.jsonl").open("ab", buffering=0)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of log.jsonl; what is none, as a last line cut short by a crash, is passed over."""
    records = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("stage"), str) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def set_aside(folder: Path) -> Path | None:
    """Renames an existing run folder to the next free NAME.N, so that starting over loses nothing."""
    if not folder.exists():
        return None
    _claim(folder).close()  # refuses while a living process uses it
    number = 1
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(target)


def _claim(folder: Path) -> TextIO:
    """The lock of a run folder. Raises UserError, naming who holds it, where it is held."""
    lock = folder / ".lock"
    held = claim(lock)
    if held is None:
        raise UserError(f"{folder} is in use by {holder(lock)}: wait for it, stop it, or use another --name")
    return held


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what YAML and JSON read back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
