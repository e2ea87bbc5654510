"""The benchmark table of tokenizers: one row each, with what it was measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.progress import Progress
from ..models.tokenizers.residual import ResidualQuantizer
from ..report.plots import settings_figure
from ..report.results import Results, table_record
from .features.inception import distance_name
from .latents import perturbed_reconstructions
from .pfid import ALPHAS, CLEAN, PFID, Setting, delta_set, pfid, quick_pfid
from .reconstruction import Reconstruction, judge_reconstruction
from .streams import open_stream

STRIP = 6  # images shown


@dataclass
class TokenizerRow:
    """What was found about one tokenizer."""

    name: str
    distance: str  # "FID", or "FD" for other features than Inception's
    codebook_size: int
    transform: str
    plain: Reconstruction
    perturbed: PFID | None  # None: not asked for
    quick: bool
    strips: dict[Setting, Tensor]
    originals: Tensor

    @property
    def count(self) -> int:
        return self.plain.count

    def header(self) -> tuple[str, ...]:
        return (
            "tokenizer",
            "K",
            f"r{self.distance}",
            f"p{self.distance}",
            "PSNR",
            "SSIM",
            "LPIPS",
            "used",
            "perplexity",
        )

    def cells(self) -> tuple:
        """One row of the table; "-" is not measured."""
        plain, usage = self.plain, self.plain.usage
        mean = "-" if self.perturbed is None else self.perturbed.mean
        lpips = "-" if plain.lpips is None else plain.lpips
        figures = (plain.rfid, mean, plain.psnr, plain.ssim, lpips)
        return (self.name, self.codebook_size, *figures, f"{usage.used:.1%}", f"{usage.perplexity:.1f}")

    def record(self) -> dict:
        """For metrics.json."""
        plain, perturbed, distance = self.plain, self.perturbed, self.distance.lower()
        return {
            "name": self.name,
            "codebook_size": self.codebook_size,
            "images": plain.count,
            "transform": self.transform,
            f"r{distance}": plain.rfid,
            "psnr": plain.psnr,
            "ssim": plain.ssim,
            "lpips": plain.lpips,
            "codes_used": plain.usage.used,
            "perplexity": plain.usage.perplexity,
            f"p{distance}": None if perturbed is None else perturbed.mean,
            f"p{distance}_settings": None if perturbed is None else table_record(perturbed.table),
            f"p{distance}_images": None if perturbed is None else perturbed.count,
            f"p{distance}_is_quick_estimate": self.quick,
        }


def judge_tokenizer(
    tokenizer,
    name: str,
    images: str,
    network: Callable,
    *,
    perceptual: Callable | None = None,
    pfid: str = "full",
    seed: int = 0,
) -> TokenizerRow:
    """One row: reconstruction of `images` (a path, see `open_stream`) and pFID ("full", "quick" or "none")."""
    perturbable = _is_perturbable(tokenizer)
    if pfid != "none" and not perturbable:
        raise UserError(f"{name}: pFID is not defined for residual multi-scale codes; judge it with --pfid none")
    stream = open_stream(images, tokenizer.image_size)
    plain = judge_reconstruction(tokenizer, stream, network, perceptual)
    perturbed = None if pfid == "none" else _pfid(tokenizer, stream, network, pfid == "quick", seed)
    originals = next(iter(stream))[:STRIP]
    codes = tokenizer.codebook.shape[-2]
    settings = [CLEAN, *((alpha, delta_set(codes)[-1]) for alpha in ALPHAS[::-2] if perturbable)]
    strips = perturbed_reconstructions(tokenizer, originals, settings, seed)
    return TokenizerRow(
        name=name,
        distance=distance_name(network.protocol),
        codebook_size=codes,
        transform=stream.transform,
        plain=plain,
        perturbed=perturbed,
        quick=pfid == "quick",
        strips=strips,
        originals=originals,
    )


def _is_perturbable(tokenizer) -> bool:
    return not any(isinstance(module, ResidualQuantizer) for module in tokenizer.modules())


def _pfid(tokenizer, stream, network: Callable, quick: bool, seed: int) -> PFID:
    judge = quick_pfid if quick else pfid
    with Progress(f"perturbing {stream.name}", min(len(stream), 5000) if quick else len(stream)) as progress:
        return judge(tokenizer, stream, network, seed=seed, progress=progress.show)


def report_tokenizers(results: Results, rows: Sequence[TokenizerRow]) -> None:
    """Adds every row's record, its pFID cells and its reconstructions under rising alpha."""
    results.add("tokenizers", [row.record() for row in rows])
    results.notes(_notes(rows))
    for number, row in enumerate(rows):
        results.page.heading(row.name)
        if row.perturbed is not None:
            deltas = sorted({delta for _, delta in row.perturbed.table})
            cells = [
                (f"alpha {alpha}", *(row.perturbed.table.get((alpha, delta), "not measured") for delta in deltas))
                for alpha in sorted({alpha for alpha, _ in row.perturbed.table})
            ]
            results.table(
                cells, ("", *(f"delta {delta}" for delta in deltas)), f"{row.name}: the cells of p{row.distance}"
            )
            figure = settings_figure(row.perturbed.table, f"{row.distance} against the input images")
            results.figure(f"pfid-{number}", figure, f"{row.distance} of perturbed reconstructions.")
        shown = torch.cat([row.originals.cpu(), *(images.cpu() for images in row.strips.values())])
        rows_shown = ["originals", "plain reconstructions", *(f"alpha {a} delta {d}" for a, d in list(row.strips)[1:])]
        results.images(shown, f"Rows: {', '.join(rows_shown)}.", columns=len(row.originals))


def _notes(rows: Sequence[TokenizerRow]) -> list[str]:
    notes = ["rFID compares with the images that were encoded, gFID with a reference set: the two are not comparable"]
    if rows[0].count < 50_000:
        notes.append(f"{rows[0].count} images; published rFID and pFID use 50,000, and FID falls with their number")
    if len({(row.transform, row.count) for row in rows}) > 1:
        notes.append("the tokenizers saw different transforms or numbers of images: their rows are not comparable")
    if rows[0].distance != "FID":
        notes.append("these distances are not FID: they are of other features than Inception's")
    if rows[0].quick:
        notes.append("pFID is the quick estimate (3 settings, at most 5,000 images): compare it only with its like")
    return notes
