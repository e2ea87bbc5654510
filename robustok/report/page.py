"""One offline HTML page of text, tables, figures and images: no script, no remote resource, every string escaped."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..core.files import write_bytes
from ..core.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1c2127, #dde3ea); --quiet: light-dark(#5c6773, #98a4b0);
  --paper: light-dark(#fff, #15191e); --card: light-dark(#f5f7f9, #1e242b); --line: light-dark(#dce1e6, #333c46);
  --accent: light-dark(#1f6feb, #6ea8fe) }
body { background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; max-width: 62rem;
  margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.75rem; margin: 0 0 1.25rem; letter-spacing: -.01em }
h1, h2, p, dt, dd, figcaption { overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .75rem; padding-bottom: .35rem; border-bottom: 1px solid var(--line) }
p { max-width: 46rem; white-space: pre-line }
p.note { border-left: 3px solid var(--accent); background: var(--card); padding: .5rem .9rem }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: .75rem;
  margin: 1.25rem 0 }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem }
dt { color: var(--quiet); font-size: .875rem }
dd { margin: 0; font-size: .875rem }
dd.value { font-size: 1.75rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums }
figure { margin: 1.25rem 0 }
figcaption { color: var(--quiet); font-size: .875rem; margin-top: .5rem; max-width: 46rem }
div.scroll { overflow-x: auto }
div.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: 1rem }
div.tiles figure { margin: 0; min-width: 0 }
div.tiles img { width: 100% }
div.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .5rem }
div.gallery img { width: 100% }
img.figure { width: min(100%, 40rem) }
table.multiples { width: 100%; table-layout: fixed; font-size: .8125rem }
table.multiples th, table.multiples td { border: 0; padding: .1rem; overflow-wrap: anywhere }
table.multiples img { display: block; width: 100%; max-width: 8rem }
img { box-sizing: border-box; max-width: 100%; height: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--line) }
img.pixels { image-rendering: pixelated; background: none }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .9rem; text-align: left; border-bottom: 1px solid var(--line) }
th.number, td.number { text-align: right }
td.number { white-space: nowrap }
th { color: var(--quiet); font-weight: 600 }
th:first-child, td:first-child { padding-left: 0 }
tbody tr:hover { background: var(--card) }
@media (max-width: 30rem) { body { padding: 1.25rem .9rem 3rem } table { font-size: .8125rem }
  th, td { padding: .3rem .4rem } td.number { white-space: normal } }
"""


class Page:
    """Collects parts in order and saves them as one file. Every method but `save` returns the page, to be chained."""

    def __init__(self, title: str):
        self.title = title
        self.parts: list[str] = []

    def heading(self, text: str) -> Page:
        """Starts a section."""
        return self._add(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> Page:
        """A paragraph; line breaks are kept."""
        return self._add(f"<p>{escape(text)}</p>")

    def note(self, text: str) -> Page:
        """A paragraph that stands out: a warning, or what a figure may not be compared with."""
        return self._add(f'<p class="note">{escape(text)}</p>')

    def headlines(self, cards: Iterable[tuple[str, str, str]]) -> Page:
        """The figures that matter, large: (name, value, what it means) each."""
        shown = (
            f'<div><dt>{escape(name)}</dt><dd class="value">{escape(value)}</dd><dd>{escape(meaning)}</dd></div>'
            for name, value, meaning in cards
        )
        return self._add("<dl>" + "\n".join(shown) + "</dl>")

    def table(self, rows: Iterable[Sequence[object]], header: Sequence[str], caption: str = "") -> Page:
        """Rows of cells; floats are shown with four significant digits, zeros too, everything else by str().

        Columns of numbers stand on the right, of text on the left; a table too wide scrolls in its own box.
        """
        cells = [[cell_text(cell) for cell in row] for row in rows]
        numbers = [_is_number_column([row[i] for row in cells]) for i in range(len(header))]
        cells = [[_unbroken(cell) if n else cell for cell, n in zip(row, numbers, strict=True)] for row in cells]
        head = _row("th", header, numbers)
        body = "\n".join(_row("td", row, numbers) for row in cells)
        table = f"<table><thead>{head}</thead>\n<tbody>{body}</tbody></table>"
        return self._figure(f'<div class="scroll">{table}</div>', caption)

    def figure(self, figure: Figure, caption: str = "") -> Page:
        """A matplotlib figure, embedded as PNG."""
        return self._figure(_image(_figure_png(figure), caption), caption)

    def figures(self, figures: Iterable[tuple[str, Figure]], caption: str) -> Page:
        """Small matplotlib figures that wrap with the width of the window: (what it shows, the figure)."""
        return self._tiles(((name, _image(_figure_png(figure), name)) for name, figure in figures), caption)

    def images(self, images: Tensor, caption: str) -> Page:
        """Images uint8 (N, 3, H, W), as many in a row as the window has room for; small ones are enlarged without
        smoothing.
        """
        texts = (f"{caption} {number} of {len(images)}" for number in range(1, len(images) + 1))
        shown = zip(images.split(1), texts, strict=True)
        pictures = "\n".join(_image(_grid_png(image, 1), text, "pixels") for image, text in shown)
        return self._figure(f'<div class="gallery">{pictures}</div>', caption)

    def tiles(self, tiles: Iterable[tuple[str, Tensor]], caption: str, *, columns: int) -> Page:
        """Small captioned grids that wrap with the width of the window: (what it shows, images uint8 (n, 3, H, W))."""
        shown = ((name, _image(_grid_png(images, columns), name, "pixels")) for name, images in tiles)
        return self._tiles(shown, caption)

    def multiples(
        self, grids: Iterable[tuple[str, Sequence[tuple[str, Tensor]]]], columns: Sequence[str], caption: str
    ) -> Page:
        """Small multiples, a grid for each thing shown: its name, and rows of (label, images uint8 (C, 3, H, W)), an
        image for each of the C labels of columns.
        """
        return self._tiles(((name, _multiples(name, rows, columns)) for name, rows in grids), caption)

    def save(self, path: str | Path) -> None:
        """Writes the page as UTF-8. Its content security policy admits embedded images and this one style sheet."""
        digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
        policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
        title, parts = escape(self.title), "\n".join(self.parts)
        text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{parts}
</body>
</html>
"""
        write_bytes(Path(path), printable(text).encode())

    def _add(self, part: str) -> Page:
        self.parts.append(part)
        return self

    def _tiles(self, tiles: Iterable[tuple[str, str]], caption: str) -> Page:
        """(caption, HTML) of each."""
        shown = (f"<figure>{content}<figcaption>{escape(name)}</figcaption></figure>" for name, content in tiles)
        return self._figure('<div class="tiles">' + "\n".join(shown) + "</div>", caption)

    def _figure(self, content: str, caption: str) -> Page:
        return self._add(f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>")


def image_grid(images: Tensor, columns: int) -> Tensor:
    """Images uint8 (N, 3, H, W) side by side in rows of `columns`, two white pixels between: uint8 (3, H', W')."""
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images: found {images.dtype} {tuple(images.shape)}, expected uint8 (N, 3, H, W), N > 0")
    N, C, H, W = images.shape
    columns = min(columns, N)
    rows = -(-N // columns)
    grid = images.new_full((C, rows * (H + 2) - 2, columns * (W + 2) - 2), 255)
    for i, image in enumerate(images):
        top, left = (i // columns) * (H + 2), (i % columns) * (W + 2)
        grid[:, top : top + H, left : left + W] = image
    return grid


def cell_text(value: object) -> str:
    """As a table shows it: floats with four significant digits, zeros too, everything else by str()."""
    return f"{value:#.4g}".rstrip(".") if isinstance(value, float) else str(value)


def _unbroken(cell: str) -> str:
    """A figure whose interval stays on one line: "2.5 ± 0.4 (-1.0 ± 0.2)" may break before the bracket alone."""
    return cell.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def _is_number_column(cells: Sequence[str]) -> bool:
    """Whether all begin as a number does, but for what was not measured; False where none does."""
    measured = [cell for cell in cells if cell not in ("-", "not measured")]
    return bool(measured) and all(re.match(r"[+-]?(\d|inf|nan)", cell) for cell in measured)


def _row(tag: str, cells: Sequence[str], numbers: Sequence[bool]) -> str:
    marks = (' class="number"' if number else "" for number in numbers)
    return "<tr>" + "".join(f"<{tag}{m}>{escape(c)}</{tag}>" for c, m in zip(cells, marks, strict=True)) + "</tr>"


def _grid_png(images: Tensor, columns: int) -> bytes:
    """What lies between images is transparent."""
    beside = image_grid(torch.zeros_like(images), columns)[:1]
    pixels = torch.cat([image_grid(images, columns), 255 - beside])
    picture = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    scale = max(1, 64 // max(images.shape[-2:]))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()


def _figure_png(figure: Figure) -> bytes:
    """As PNG; fine enough for a large screen, and with letters that a phone, at half the width, still shows."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def _multiples(name: str, rows: Sequence[tuple[str, Tensor]], columns: Sequence[str]) -> str:
    """A table of images; each says by its text where it stands."""
    head = "<td></td>" + "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = ""
    for label, images in rows:
        texts = (f"{name}, {label}, {column}" for column in columns)
        shown = zip(images.split(1), texts, strict=True)
        cells = "".join(f"<td>{_image(_grid_png(image, 1), text, 'pixels')}</td>" for image, text in shown)
        body += f"<tr><th>{escape(label)}</th>{cells}</tr>\n"
    return f'<table class="multiples"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'


def _image(png: bytes, alt: str, kind: str = "figure") -> str:
    return f'<img class="{kind}" alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
