"""The benchmark table of tokenizers, and the page with what was measured on each."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..evaluation.intervals import recorded
from ..evaluation.noise import NoiseFID, noise_name
from ..evaluation.pfid import PFID, perturbed_name
from ..evaluation.tokenizers import TokenizerFigures
from .plots import settings_figure, usage_figure
from .results import Results, table_record
from .wording import estimated, usage_in_words

FULL_COUNT = 50_000  # images that published rFID and pFID are of
SETTINGS = "alpha is the share of the tokens that are replaced, delta of how many codes the replacement is drawn."
MEANINGS = (
    "Distances are better when smaller: r of plain reconstructions, p of perturbed ones, the mean over all settings; "
    "± half of their 95 % interval over the draw of the images, where it is known. PSNR in dB, SSIM up to 1: better "
    "when larger."
)


def report_tokenizers(results: Results, evaluated: Sequence[TokenizerFigures], protocol: str) -> None:
    """Adds the table of all tokenizers, their records and notes, and for each its cells and reconstructions.

    `protocol` names the features that the distances are of.
    """
    first = evaluated[0]
    names = list(dict.fromkeys(name for figures in evaluated for name in _robustness(figures)))
    header = ("tokenizer", "K", f"r{first.distance}", *names)
    header += ("PSNR", "SSIM", "LPIPS", "used", "perplexity")
    rows = [cells for figures in evaluated for cells in _rows(figures, names)]
    results.table(rows, header, f"{protocol}, {first.count} images. {MEANINGS}")
    results.add("tokenizers", [_record(figures) for figures in evaluated])
    results.notes(_notes(evaluated))
    for number, figures in enumerate(evaluated):
        results.page.heading(figures.name)
        for name, measured in _measured(figures).items():
            if isinstance(measured, NoiseFID):
                _add_strengths(results, f"{figures.name}: the cells of {name}", measured)
            else:
                _add_settings(results, figures, name, measured, f"{name.replace(' ', '-').lower()}-{number}")
        _add_reconstructions(results, figures)
        if (usage := figures.plain.usage) is not None:
            words = f"The share of the tokens that each code has, most frequent first. {usage_in_words(usage)}"
            results.page.figure(usage_figure(usage), words)


def _measured(figures: TokenizerFigures) -> dict[str, PFID | NoiseFID]:
    """Every perturbation that was measured, by the name of its mean."""
    of_codes = {} if figures.perturbed is None else {perturbed_name("neighbor", figures.distance): figures.perturbed}
    names = {kind: noise_name if isinstance(of, NoiseFID) else perturbed_name for kind, of in figures.others.items()}
    return of_codes | {names[kind](kind, figures.distance): of for kind, of in figures.others.items()}


def _robustness(figures: TokenizerFigures) -> dict[str, float]:
    """The figures of the table that say how a decoder stands latents that are not an image's own, by name."""
    means = {name: measured.mean for name, measured in _measured(figures).items()}
    between = figures.interpolated
    return means if between is None else means | {f"i{figures.distance}": between.value}


def _rows(figures: TokenizerFigures, names: Sequence[str]) -> list[tuple]:
    """The rows of the table that are of one tokenizer; "-" is not measured."""
    plain, usage, found = figures.plain, figures.plain.usage, _robustness(figures)
    lpips = "-" if plain.lpips is None else plain.lpips
    distances = (estimated(plain.rfid), *(estimated(found[name]) if name in found else "-" for name in names))
    quality = (*distances, plain.psnr, plain.ssim, lpips)
    codes = ("-", "-") if usage is None else (f"{usage.used:.1%}", f"{usage.perplexity:.1f}")
    rows: list[tuple] = [(figures.name, figures.codebook_size or "-", *quality, *codes)]
    if figures.mixed is not None:
        name = f"{figures.name}, unperturbed tokens by L2"
        rest = ["-"] * (len(names) - 1 + 5)  # pFID is the first of the names
        rows.append((name, figures.codebook_size, estimated(figures.mixed.rfid), estimated(figures.mixed.mean), *rest))
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
        **recorded({f"r{distance}": plain.rfid}),
        "psnr": plain.psnr,
        "ssim": plain.ssim,
        "lpips": plain.lpips,
        "codes_used": None if usage is None else usage.used,
        "perplexity": None if usage is None else usage.perplexity,
        **({f"p{distance}": None} if perturbed is None else recorded({f"p{distance}": perturbed.mean})),
        f"p{distance}_settings": None if perturbed is None else table_record(perturbed.table),
        f"p{distance}_images": None if perturbed is None else perturbed.count,
        f"p{distance}_is_quick_estimate": figures.quick,
        f"p{distance}_with_unperturbed_tokens_by_l2": None if figures.mixed is None else figures.mixed.mean,
        **_other_records(figures),
    }


def _other_records(figures: TokenizerFigures) -> dict:
    """What was measured beside pFID, each under its name in lower case."""
    record: dict = {}
    for name, measured in _measured(figures).items():
        if measured is figures.perturbed:
            continue
        key, noise = name.lower().replace(" ", "_"), isinstance(measured, NoiseFID)
        cells = [{"strength": t, "value": value} for t, value in measured.table.items()] if noise else None
        record |= recorded({key: measured.mean})
        record[f"{key}_settings"] = table_record(measured.table) if cells is None else cells
        record[f"{key}_images"] = measured.count
        record[f"{key}_is_quick_estimate"] = figures.quick
    between, key = figures.interpolated, f"i{figures.distance.lower()}"
    if between is not None:
        record |= {key: between.value, f"{key}_neighbors": between.space, f"{key}_weight": between.weight}
    return record


def _add_settings(results: Results, figures: TokenizerFigures, name: str, measured: PFID, picture: str) -> None:
    """pFID, or that of another kind, setting by setting, as a table and as a figure."""
    table, deltas = measured.table, sorted({delta for _, delta in measured.table})
    rows = [
        (f"alpha {alpha}", *(table.get((alpha, delta), "not measured") for delta in deltas))
        for alpha in sorted({alpha for alpha, _ in table})
    ]
    caption = f"{figures.name}: the cells of {name}, whose mean is {estimated(measured.mean)}. {SETTINGS}"
    results.table(rows, ("", *(f"delta {delta}" for delta in deltas)), caption)
    curves = settings_figure(table, f"{figures.distance} against the input images")
    results.figure(picture, curves, f"{name}: {figures.distance} of perturbed reconstructions, a curve for each delta.")


def _add_strengths(results: Results, caption: str, measured: NoiseFID) -> None:
    """nFID, or that of another noise, strength by strength."""
    rows = [(f"strength {t}", value) for t, value in measured.table.items()]
    results.table(rows, ("in standard deviations of the latents", "distance"), caption)


def _add_reconstructions(results: Results, figures: TokenizerFigures) -> None:
    """Some images, their plain reconstructions, and those under rising alpha, a tile for each image."""
    pictures = [figures.originals.cpu(), *(images.cpu() for images in figures.strips.values())]
    perturbed = [f"alpha {alpha} and delta {delta}" for alpha, delta in list(figures.strips)[1:]]
    order = ", ".join(["the original", "its plain reconstruction", *perturbed])
    tiles = [(f"image {number}", group) for number, group in enumerate(torch.stack(pictures, 1), 1)]
    results.page.tiles(tiles, f"Of each image, row by row: {order}.", columns=3 if len(pictures) > 2 else 2)


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
        notes.append("perturbed figures are quick estimates (3 settings, at most 5,000 images): compare only like ones")
    if any(figures.others for figures in evaluated):
        notes.append(f"only the {first.distance} under near codes is p{first.distance}; other names are other figures")
    return notes
