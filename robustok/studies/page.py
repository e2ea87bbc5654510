"""The page of a study, as Markdown and as one HTML file: claims, what was found, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ..report.page import Page
from ..report.plots import settings_figure
from .claims import CONTRADICTED, RECIPE, REPRODUCED, UNDECIDED, claims, rule, stopping_curve
from .latents import Table
from .markdown import MarkdownPage
from .measured import Findings, Measured
from .plan import TRAINED
from .plots import agreement_figure, curve_figure, rows_figure
from .tables import cost_rows, loss_rows, post_rows, tokenizer_rows

Latents = Mapping[Measured, Table]  # a run -> its MMD table


class PageWriter(Protocol):
    """What a page is written with."""

    def heading(self, text: str) -> object: ...

    def text(self, text: str) -> object: ...

    def table(self, rows, header, caption: str = "") -> object: ...

    def figure(self, figure, caption: str = "") -> object: ...


def write_pages(found: Findings, about: Sequence[Mapping[str, str]], latents: Latents, folder: Path) -> None:
    """Writes README.md with its figures, and study.html.

    about: where and when runs were started, see `running.machines`. latents: run -> its MMD table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    title = f"The study on {found.study.name}"
    markdown, page = MarkdownPage(title, folder / "README.md"), Page(title)
    for writer in (markdown, page):
        _write(writer, found, about, latents)
    markdown.save()
    page.save(folder / "study.html")


def _write(page: PageWriter, found: Findings, about: Sequence[Mapping[str, str]], latents: Latents) -> None:
    first = next(iter(found.runs.values()))
    images, distance = first.metrics["images"], first.metrics["distance"]
    page.text(
        f"Small models on {images['train']} training images: what the paper claims, held against runs that anyone can "
        f"repeat. FD, pFD, rFD and gFD are {distance}: Fréchet distances of a small classifier's features, no FID. "
        f"{images['test']} test images and {images['samples']} generated ones are judged. Negative results stay in."
    )
    page.table([tuple(machine.values()) for machine in about], tuple(about[0]), "Where the runs were started.")
    page.heading("Claims")
    looked = claims(found)
    for verdict in (REPRODUCED, CONTRADICTED, UNDECIDED):
        page.text(f"{verdict.capitalize()}: {'; '.join(c.claim for c in looked if c.verdict == verdict) or 'none'}.")
    page.table(
        [(c.claim, c.paper, c.found, c.verdict, c.rows) for c in looked],
        ("claim", "the paper, on ImageNet", "found here", "verdict", "python -m robustok.study ..."),
        "Intervals are 95 %. What is behind ± of a row or of a difference is the spread from seed to seed, pooled over "
        "all rows with several seeds. A change whose interval has 0 in it is no difference found: the verdict is then "
        '"not at this size".',
    )
    page.heading("Tokenizers, and generators trained on them")
    page.table(*tokenizer_rows(found))
    page.figure(rows_figure(found), "gFD of each row and seed before post-training, and after it.")
    page.figure(agreement_figure(found), "Each run: what is known of its tokenizer, against gFD of the generator.")
    page.heading("Post-training")
    page.table(*post_rows(found))
    long = found.runs.get(("long", 0))
    if long is not None:
        checks = stopping_curve(long)
        kept, best = rule(checks, 1), min(checks, key=lambda check: check[1])
        page.figure(
            curve_figure(checks, kept, best),
            "Post-training without a stopping rule: the score on validation images (distances of both feature spaces "
            f"over those at the start). The rule keeps step {kept[0]}; the lowest score is at step {best[0]}.",
        )
    if latents:
        page.heading("Which wrong latents resemble a generator's")
        for run, table in latents.items():
            page.figure(settings_figure(table, "squared MMD"), _lowest(run, table))
    page.heading("Share of each loss term")
    page.table(*loss_rows(found.runs.get((RECIPE, 0)) or found.of(TRAINED)[0]))
    page.heading("What a row costs")
    page.table(*cost_rows(found, TRAINED))
    page.heading("To repeat a row")
    page.text(
        "`python -m robustok.fetch_data emoji` once, then `python -m robustok.study --rows ROW --seeds 0`. It ends "
        "with its figures beside the intervals that are expected; `python -m robustok.evaluate recipe study/ROW` "
        "shows those. `make study` runs all rows and writes this page."
    )


def _lowest(run: Measured, table: Table) -> str:
    """Where the MMD is lowest, and whether that is among pFID's settings."""
    alpha, delta = min(table, key=lambda setting: table[setting])
    alphas, deltas, _ = zip(*run.metrics["tokenizer"]["pfd_table"], strict=True)
    inside = min(alphas) <= alpha <= max(alphas) and min(deltas) <= delta <= max(deltas)
    return (
        f"{run.name}: MMD of perturbed real latents and generated ones. It is lowest at alpha {alpha:g}, delta "
        f"{delta}, {'inside' if inside else 'outside'} of the range of pFID's settings (alpha {min(alphas):g} to "
        f"{max(alphas):g}, delta {min(deltas):g} to {max(deltas):g})."
    )
