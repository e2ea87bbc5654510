"""The list of a benchmark: which tokenizers, where their files are, how they are used, what was published of them.

    tokenizers:
      - name: LlamaGen                   # in the table
        file: vq_ds16_c2i.pt             # a file or a folder, found in the folder --files
        codebook_size: 16384             # K, for the table where the file is missing
        num_heads, image_size, similarity: what the file cannot say, as `load_tokenizer` takes it
        generator:                       # whose gFID is measured
          file: c2i_B_256.pt
          num_heads, num_tokens: what the file cannot say, as `load_generator` takes it
          sampling: {guidance_scale: 2.0, guidance_power: null}
        published: {rfid: 2.19, pfid: 13.12, gfid_llamagen_b: 8.61, gfid_llamagen_l: 4.40}
        source: FoundationVision/LlamaGen
        licence: MIT
        download: what to get from there, where the file's name does not say it
    notes: [what a reader of the table must know]

All but name and file may be left out.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.declared import declared_values
from ..core.errors import UserError
from ..core.options import image_size
from ..core.sizes import Size
from ..core.yaml_reading import read_yaml
from ..presets import FOLDER

SHIPPED = FOLDER / "benchmarks"
PUBLISHED = ("rfid", "pfid", "gfid_llamagen_b", "gfid_llamagen_l")


@dataclass(frozen=True, eq=False)
class GeneratorEntry:
    """A generator of the list."""

    file: str
    num_heads: int | None = None
    num_tokens: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Entry:
    """A tokenizer of the list."""

    name: str
    file: str
    codebook_size: int | None = None
    num_heads: int | None = None
    image_size: Size | None = None
    similarity: str | None = None
    generator: GeneratorEntry | None = None
    published: dict[str, float] = field(default_factory=dict)
    source: str | None = None
    licence: str | None = None
    download: str | None = None

    def missing(self, folder: Path) -> list[str]:
        """Which of its files are not in the folder: the tokenizer's comes first."""
        files = [self.file, *([self.generator.file] if self.generator else [])]
        return [file for file in files if not (folder / file).exists()]


@dataclass(frozen=True, eq=False)
class BenchmarkList:
    """A whole list."""

    tokenizers: list[Entry]
    notes: list[str]


def read_list(path: str | Path) -> BenchmarkList:
    """The list in a YAML file, or the shipped one of that name. Raises UserError naming the entry and the key."""
    shipped = SHIPPED / f"{path}.yaml"
    file = shipped if shipped.is_file() and not Path(path).exists() else Path(path)
    written = read_yaml(file, f"shipped lists are {', '.join(sorted(p.stem for p in SHIPPED.glob('*.yaml')))}")
    if not isinstance(written, dict) or not isinstance(written.get("tokenizers"), list) or not written["tokenizers"]:
        raise UserError(f"{path}: found no tokenizers; expected a line `tokenizers:` and an entry for each below it")
    if unknown := written.keys() - {"tokenizers", "notes"}:
        raise UserError(f"{path}: {sorted(map(str, unknown))[0]} is unknown; expected tokenizers and notes")
    notes = written.get("notes") or []
    if not isinstance(notes, list):
        raise UserError(f"{path}: notes: found {str(notes)[:60]!r}, expected a list of texts")
    entries = [_entry(given, f"{path}, entry {n}") for n, given in enumerate(written["tokenizers"], 1)]
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: name: {names.count(name)} entries are called {name!r}, expected one")
    return BenchmarkList(entries, [str(note) for note in notes])


def _entry(given: Any, where: str) -> Entry:
    if isinstance(given, dict) and isinstance(given.get("name"), str):
        where = f"{where} ({given['name']})"
    values = declared_values(Entry, given, where)
    if values.get("generator") is not None:
        inside = f"{where}, generator"
        values["generator"] = GeneratorEntry(**declared_values(GeneratorEntry, given["generator"], inside))
    if values.get("image_size") is not None:
        try:
            values["image_size"] = image_size(str(values["image_size"]))
        except ArgumentTypeError as error:
            raise UserError(f"{where}, image_size: {error}") from None
    for name, value in values.get("published", {}).items():
        if name not in PUBLISHED or not isinstance(value, int | float):
            found = f"found {name}: {value!r}, expected numbers called {', '.join(PUBLISHED)}"
            raise UserError(f"{where}, published: {found}")
    return Entry(**values)
