"""The table of a benchmark, with what was published beside what was found, its rank correlations and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..report.plots import correlation_figure, settings_figure
from ..report.results import Results
from .entries import BenchmarkList, Entry
from .ranks import rank_cells, rank_records

RANKED = ("r", "p", "i")  # distances that are compared with that of generated images
PUBLISHED_GENERATORS = {"gfid_llamagen_b": "LlamaGen-B", "gfid_llamagen_l": "LlamaGen-L"}
LETTERS = "r: plain reconstructions, p: perturbed tokens, n: noise, i: interpolated latents, g: generated images."
NOTES = (
    "published rFID, pFID and gFID are of ImageNet at 256 x 256 (50,000 images); a published gFID is of a generator "
    "trained on the tokenizer's tokens, sampled with guidance",
    "rank correlations: 95 % intervals of the percentile bootstrap over tokenizers (of a perfect order one point), and "
    "p of the two-sided permutation test; counted out for up to 8 tokenizers, drawn 10,000 times for more",
)


def report_benchmark(
    results: Results, listing: BenchmarkList, figures: Mapping[str, dict[str, Any]], distance: str, folder: Path
) -> None:
    """Adds tables, notes, figures and records.

    figures: what was found by entry's name, {} where its file is missing. distance: "fid", or "fd" where the features
    are not Inception's. folder: where the files were looked for.
    """
    rows = [_row(entry, figures.get(entry.name, {})) for entry in listing.tokenizers]
    results.add("tokenizers", rows)
    results.table(*_table(rows, distance), f"tokenizers, smaller is better. {LETTERS}")
    _add_missing(results, listing.tokenizers, folder)
    _add_ranks(results, rows, distance)
    results.notes([*NOTES, *listing.notes])
    for row in rows:
        if cells := row.get(f"p{distance}_settings"):
            table = {(cell["alpha"], cell["delta"]): cell["value"] for cell in cells}
            results.page.heading(row["name"])
            picture = settings_figure(table, f"{distance.upper()} against the input images")
            caption = "distance of reconstructions from perturbed tokens over alpha, a curve for each delta"
            results.page.figure(picture, f"{row['name']}: {caption}.")


def _row(entry: Entry, found: Mapping[str, Any]) -> dict[str, Any]:
    """All that is known of an entry, for metrics.json; published values as `published_rfid` and so on."""
    published = {f"published_{name}": value for name, value in entry.published.items()}
    facts = {"name": entry.name, "file": entry.file, "source": entry.source, "licence": entry.licence}
    return {**facts, "codebook_size": entry.codebook_size, "is_measured": bool(found), **published, **found}


def _table(rows: Sequence[Mapping[str, Any]], distance: str) -> tuple[list[tuple], tuple[str, ...]]:
    """(rows, header): a column for each figure that some tokenizer has, the published one after ours."""
    columns = []
    for letter in ("r", "p", "n", "i", "g"):
        columns.append((f"{letter}{distance}", f"{letter}{distance.upper()}"))
        columns.append((f"published_{letter}fid", f"published {letter}FID"))
    variant = f"p{distance}_with_unperturbed_tokens_by_l2"
    columns.insert(3, (variant, f"p{distance.upper()}, rest by L2"))
    columns += [(f"published_{key}", f"published gFID, {name}") for key, name in PUBLISHED_GENERATORS.items()]
    columns = [column for column in columns if any(row.get(column[0]) is not None for row in rows)]
    body = [(row["name"], row["codebook_size"] or "-", *(_cell(row.get(key)) for key, _ in columns)) for row in rows]
    return body, ("tokenizer", "K", *(name for _, name in columns))


def _cell(value: float | None) -> object:
    return "-" if value is None else value


def _add_missing(results: Results, entries: Sequence[Entry], folder: Path) -> None:
    """What is to be downloaded for the figures that are not there."""
    missing = [(entry, file) for entry in entries for file in entry.missing(folder)]
    results.add("missing", [{"name": entry.name, "file": file} for entry, file in missing])
    results.notes([_to_get(entry, folder / file, file == entry.file) for entry, file in missing])


def _to_get(entry: Entry, path: Path, is_tokenizer: bool) -> str:
    if not is_tokenizer:
        return f"{entry.name}: no gFID: its generator {path} is not there"
    if entry.source is None:
        return f"{entry.name}: not measured: {path} is not there"
    what = f"get {entry.download}, " if entry.download else ""
    where = f"{what}from {entry.source}, licence: {entry.licence or 'none stated'}"
    return f"{entry.name}: not measured: {path} is not there; {where}"


def _add_ranks(results: Results, rows: Sequence[Mapping[str, Any]], distance: str) -> None:
    """Rank correlations and scatter plots: of our figures, and of those published with each generator."""
    ours = [f"{letter}{distance}" for letter in RANKED]
    compared = [("measured", ours, f"g{distance}")]
    for key, name in PUBLISHED_GENERATORS.items():
        compared.append((f"published, {name}", ["published_rfid", "published_pfid"], f"published_{key}"))
    for title, metrics, target in compared:
        records = rank_records(rows, metrics, target)
        if not records:
            continue
        header = ("", "over", "tokenizers", "Spearman's rho", "Kendall's tau")
        results.table([rank_cells(record) for record in records], header, f"rank correlations with gFID: {title}")
        results.add(f"ranks_{target}", records)
        for metric in dict.fromkeys(record["metric"] for record in records):
            known = [row for row in rows if row.get(metric) is not None and row.get(target) is not None]
            picture = correlation_figure(known, metric, target)
            results.figure(f"{metric}-{target}", picture, f"{title}: {metric} against {target}, one point a tokenizer.")
