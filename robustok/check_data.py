"""What is in a data set, and what is wrong with it: python -m robustok.check_data PATH [--json] [--sheet FILE]

PATH: a folder of images (one sub-folder per class, or images alone), tar shards or Parquet files (their folder, one of
them, or FOLDER/SPLIT), a folder of token or latent shards, or "digits". Images are all read once; --sheet draws 16 of
them into a PNG.
Exit code 0: training can use it. 1: it cannot (too many bad images, a class without any). 2: no data set, or not one
of these layouts.
"""

import json
import sys
from pathlib import Path
from typing import Any

from .core.cli import run_verb
from .core.files import written_whole
from .core.options import verb_parser
from .core.paths import FILE, check_output
from .core.text import one_line, say

COUNTS = (  # figures shown, in this order, where there are any
    *("images", "image_groups", "sequences", "tokens", "latents", "smallest_std", "largest_std", "tokenizer"),
    *("codebook_size", "codes_used", "ignored_files", "sheet"),
)
_SHOWN = 20  # entries of a list; --json has them all


def main(argv: list[str]) -> int:
    """Prints what PATH holds; returns the exit code."""
    parser = verb_parser("check_data", __doc__)
    parser.add_argument(
        "path", metavar="PATH", help='images, tar shards, Parquet files, token or latent shards, or "digits"'
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--sheet", type=Path, help="PNG file to draw 16 of the images into (default: none is drawn)")
    options = parser.parse_args(argv)
    if options.sheet is not None:
        check_output("--sheet", options.sheet, {"PATH": options.path}, kind=FILE)
    found = {"path": options.path, **_survey(options.path, options.sheet)}
    if options.json:
        print(json.dumps(found, indent=1))  # ASCII, and any name comes back out of it
    else:
        say(_describe(found))
    return 0 if found["usable"] else 1


def _survey(path: str, sheet: Path | None) -> dict[str, Any]:
    from .core.progress import Progress
    from .data.digits import Digits, means_digits
    from .data.images import open_source
    from .data.latents import LatentSet, open_rows
    from .data.rows import is_row_folder
    from .data.survey import survey_images, survey_latents, survey_tokens, thumbnail_sheet

    if is_row_folder(path):
        rows = open_rows(path)
        return survey_latents(rows) if isinstance(rows, LatentSet) else survey_tokens(rows)
    source = Digits() if means_digits(path) else open_source(path)
    with Progress("checked") as progress:
        found = survey_images(source, progress.show)
    if sheet is None:
        return found
    with written_whole(sheet) as temporary:
        thumbnail_sheet(source).save(temporary, "PNG")
    return {**found, "sheet": str(sheet)}


def _describe(found: dict[str, Any]) -> str:
    """The survey as lines of text."""
    counts = found["classes"]
    lines = [f"{found['path']}: {found['format']}"]
    for name in COUNTS:
        if name in found:
            lines.append(f"{name.replace('_', ' ')}: {found[name]}")
    for name, (width, height) in found.get("sizes", {}).items():
        lines.append(f"{name} image: {width} x {height}")
    fewest, most = min(counts.values()), max(counts.values())
    lines.append(f"classes: {len(counts)}, each with {fewest}" + (f" to {most}" if fewest < most else ""))
    lines += _listing([f"{name}: {count}" for name, count in counts.items()])
    for name, title in (
        ("bad", "bad images"),
        ("left_out", "left out of the index"),
        ("notes", "notes"),
        ("unreadable_classes", "classes of which no image can be read"),
        ("duplicates", "groups of identical images"),
        ("conflicts", "groups of identical images in different classes"),
    ):
        if found.get(name):
            lines.append(f"{title}: {len(found[name])}")
            lines += _listing([" = ".join(item) if isinstance(item, list) else item for item in found[name]])
    if "budget" in found:
        lines.append(f"training skips up to {found['budget']} bad images of this set")
    lines.append("usable" if found["usable"] else "NOT usable")
    return "\n".join(lines)


def _listing(items: list[str]) -> list[str]:
    more = [f"  ... and {len(items) - _SHOWN} more (--json lists all)"] if len(items) > _SHOWN else []
    return [f"  {one_line(item)}" for item in items[:_SHOWN]] + more


if __name__ == "__main__":
    sys.exit(run_verb(main))
