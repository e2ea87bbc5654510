"""The benchmark table of tokenizers, and the page with what was measured on each."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..evaluation.tokenizers import TokenizerFigures
from .plots import settings_figure
from .results import Results, table_record

FULL_COUNT = 50_000  # images that published rFID and pFID are of


def report_tokenizers(results: Results, evaluated: Sequence[TokenizerFigures], protocol: str) -> None:
    """Adds the table of all tokenizers, their records and notes, and for each its pFID cells and reconstructions.

    `protocol` names the features that the distances are of.
    """
    first = evaluated[0]
    header = ("tokenizer", "K", f"r{first.distance}", f"p{first.distance}")
    header += ("PSNR", "SSIM", "LPIPS", "used", "perplexity")
    rows = [cells for figures in evaluated for cells in _rows(figures)]
    results.table(rows, header, f"{protocol}, {first.count} images")
    results.add("tokenizers", [_record(figures) for figures in evaluated])
    results.notes(_notes(evaluated))
    for number, figures in enumerate(evaluated):
        results.page.heading(figures.name)
        if figures.perturbed is not None:
            _add_settings(results, figures, f"pfid-{number}")
        _add_reconstructions(results, figures)


def _rows(figures: TokenizerFigures) -> list[tuple]:
    """The rows of the table that are of one tokenizer; "-" is not measured."""
    plain, usage = figures.plain, figures.plain.usage
    pfid = "-" if figures.perturbed is None else figures.perturbed.mean
    lpips = "-" if plain.lpips is None else plain.lpips
    quality = (plain.rfid, pfid, plain.psnr, plain.ssim, lpips)
    codes = ("-", "-") if usage is None else (f"{usage.used:.1%}", f"{usage.perplexity:.1f}")
    rows: list[tuple] = [(figures.name, figures.codebook_size or "-", *quality, *codes)]
    if figures.mixed is not None:
        name = f"{figures.name}, unperturbed tokens by L2"
        rows.append((name, figures.codebook_size, figures.mixed.rfid, figures.mixed.mean, *["-"] * 5))
    return rows


def _record(figures: TokenizerFigures) -> dict:
    """For metrics.json."""
    plain, perturbed, distance = figures.plain, figures.perturbed, figures.distance.lower()
    usage = plain.usage
    return {
        "name": figures.name,
        "codebook_size": figures.codebook_size,
        "images": plain.count,
        "transform": figures.transform,
        f"r{distance}": plain.rfid,
        "psnr": plain.psnr,
        "ssim": plain.ssim,
        "lpips": plain.lpips,
        "codes_used": None if usage is None else usage.used,
        "perplexity": None if usage is None else usage.perplexity,
        f"p{distance}": None if perturbed is None else perturbed.mean,
        f"p{distance}_settings": None if perturbed is None else table_record(perturbed.table),
        f"p{distance}_images": None if perturbed is None else perturbed.count,
        f"p{distance}_is_quick_estimate": figures.quick,
        f"p{distance}_with_unperturbed_tokens_by_l2": None if figures.mixed is None else figures.mixed.mean,
    }


def _add_settings(results: Results, figures: TokenizerFigures, picture: str) -> None:
    """pFID setting by setting, as a table and as a figure."""
    name, distance, table = figures.name, figures.distance, figures.perturbed.table
    deltas = sorted({delta for _, delta in table})
    rows = [
        (f"alpha {alpha}", *(table.get((alpha, delta), "not measured") for delta in deltas))
        for alpha in sorted({alpha for alpha, _ in table})
    ]
    results.table(rows, ("", *(f"delta {delta}" for delta in deltas)), f"{name}: the cells of p{distance}")
    curves = settings_figure(table, f"{distance} against the input images")
    results.figure(picture, curves, f"{distance} of perturbed reconstructions.")


def _add_reconstructions(results: Results, figures: TokenizerFigures) -> None:
    """Some images, their plain reconstructions, and those under rising alpha."""
    shown = torch.cat([figures.originals.cpu(), *(images.cpu() for images in figures.strips.values())])
    perturbed = [f"alpha {alpha} delta {delta}" for alpha, delta in list(figures.strips)[1:]]
    rows = ", ".join(["originals", "plain reconstructions", *perturbed])
    results.images(shown, f"Rows: {rows}.", columns=len(figures.originals))


def _notes(evaluated: Sequence[TokenizerFigures]) -> list[str]:
    """What a reader must know before comparing the rows."""
    first = evaluated[0]
    notes = ["rFID compares with the images that were encoded, gFID with a reference set: the two are not comparable"]
    if first.count < FULL_COUNT:
        notes.append(f"{first.count} images; published rFID and pFID use 50,000, and FID falls with their number")
    if len({(figures.transform, figures.count) for figures in evaluated}) > 1:
        notes.append("the tokenizers saw different transforms or numbers of images: their rows are not comparable")
    if first.distance != "FID":
        notes.append("these distances are not FID: they are of other features than Inception's")
    if first.quick:
        notes.append("pFID is the quick estimate (3 settings, at most 5,000 images): compare it only with its like")
    return notes
