"""A page of Markdown with its figures beside it: the parts of report/page.py, for a reader of the repository."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.files import write_bytes, written_whole
from ..report.page import cell_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MarkdownPage:
    """Collects parts in order; figures are written at once, beside the file."""

    def __init__(self, title: str, file: Path):
        self.file, self.parts, self.figures = file, [f"# {title}"], 0

    def heading(self, text: str) -> None:
        """Starts a section."""
        self.parts.append(f"## {text}")

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append(text)

    def table(self, rows: Iterable[Sequence[object]], header: Sequence[str], caption: str = "") -> None:
        """Rows of cells, floats with four significant digits."""
        lines = [header, ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
        self.parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
        if caption:
            self.parts.append(caption)

    def figure(self, figure: Figure, caption: str) -> None:
        """A matplotlib figure, as PNG."""
        self.figures += 1
        name = f"{self.file.stem.lower()}-{self.figures}.png"
        with written_whole(self.file.parent / name) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        self.parts.append(f"![{caption}]({name})\n\n{caption}")

    def save(self) -> None:
        """Writes the page."""
        write_bytes(self.file, ("\n\n".join(self.parts) + "\n").encode())


def _cell(value: object) -> str:
    return cell_text(value).replace("|", "\\|")
