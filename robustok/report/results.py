"""What an evaluation leaves behind: a table on the terminal, metrics.json, pictures, and one report.html."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.files import remove_leftovers, write_bytes, written_whole
from ..core.text import console, printable, say
from ..core.version import __version__
from .page import Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Results:
    """Collects what one command finds; `save` writes it into `folder`, where one process at a time writes results."""

    def __init__(self, folder: str | Path, title: str):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)  # of a process that was killed while it wrote them
        self.page = Page(title)
        self.record: dict = {"title": title, "versions": {"robustok": __version__, "torch": torch.__version__}}

    def add(self, name: str, value: object) -> None:
        """Puts a value into metrics.json; `name` is its key."""
        self.record[name] = value

    def table(self, rows: Sequence[Sequence[object]], header: Sequence[str], caption: str = "") -> None:
        """Shows a table on the terminal and in the report."""
        print_table(rows, header, caption)
        self.page.table(rows, header, caption)

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """Saves a figure as NAME.png and shows it in the report."""
        with written_whole(self.folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
        self.page.figure(figure, caption)

    def images(self, images: Tensor, caption: str) -> None:
        """Shows uint8 images (N, 3, H, W) in the report."""
        self.page.images(images.cpu(), caption)

    def notes(self, notes: Sequence[str]) -> None:
        """What a reader must know before comparing the figures: on the terminal, in the record and in the report."""
        self.record.setdefault("notes", []).extend(notes)
        for note in notes:
            say(f"note: {note}", sys.stderr)
            self.page.note(note)

    def save(self) -> None:
        """Writes metrics.json and report.html."""
        text = json.dumps(self.record, indent=2, default=_plain)
        write_bytes(self.folder / "metrics.json", f"{text}\n".encode())
        self.page.save(self.folder / "report.html")
        say(f"written: {self.folder / 'metrics.json'}, {self.folder / 'report.html'}")


def print_table(rows: Sequence[Sequence[object]], header: Sequence[str], caption: str = "") -> None:
    """A table on the terminal; figures are on the right of their columns, floats have four decimals."""
    from rich.box import SIMPLE
    from rich.table import Table

    title = printable(caption) or None
    table = Table(*map(printable, header), title=title, title_justify="left", box=SIMPLE, padding=(0, 0))
    for i, column in enumerate(table.columns):
        column.justify = "right" if all(isinstance(row[i], int | float) for row in rows) else "left"
    for row in rows:
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else printable(cell) for cell in row))
    console().print(table)


def table_record(table: Mapping[tuple[float, int], float]) -> list[dict]:
    """{(alpha, delta): value} as JSON can hold it."""
    return [{"alpha": alpha, "delta": delta, "value": value} for (alpha, delta), value in table.items()]


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} in metrics.json")
