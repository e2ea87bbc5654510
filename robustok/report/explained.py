"""The pages of `python -m robustok.explain`: why a tokenizer scores as it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..evaluation.explaining import Lipschitz, Usage
from ..evaluation.metrics.ranking import RankCorrelation
from ..evaluation.perturbing import Setting
from .plots import correlation_figure, elbow_figure, lipschitz_figure, map_figure, settings_figure, usage_figure
from .results import Results, table_record
from .robustness import multiples
from .wording import usage_in_words


def report_codebook(results: Results, usage: Usage, points: Tensor, count: int) -> None:
    """usage: of the tokens of `count` images. points: (K, 2), the codes on a map."""
    found = {"used": usage.used, "perplexity": usage.perplexity, "top": usage.top}
    results.table(list(found.items()), ("codebook", "value"), f"{len(usage.counts)} codes, {count} images")
    words = f"The share of the images' tokens that each code has, most frequent first. {usage_in_words(usage)}"
    results.figure("usage", usage_figure(usage), words)
    results.figure(
        "map",
        map_figure(points, usage),
        "The codes on a map (t-SNE): codes that are alike lie together. Grey ones are used as often as each title says "
        "or less; where whole regions stay grey, the codebook is larger than what it is used for.",
    )
    results.add("usage", found | {"counts": usage.counts.tolist()})


def report_strips(results: Results, originals: Tensor, pictures: Mapping[Setting, Tensor]) -> None:
    """originals: uint8 (N, 3, H, W). pictures: their reconstructions under each (alpha, delta), clean ones first."""
    grids = [(f"image {number + 1}", *multiples(originals, pictures, number)) for number in range(len(originals))]
    results.page.multiples(
        [(name, rows) for name, rows, _ in grids],
        grids[0][2],
        "Each image and its reconstruction from more and more wrong tokens: downwards a larger share of the tokens is "
        "replaced (alpha), across by codes farther away (delta: one of so many nearest codes). The row of alpha 0 is "
        "the clean reconstruction.",
    )


def report_lipschitz(results: Results, found: Mapping[str, Lipschitz]) -> None:
    """found: by the tokenizer's name."""
    rows = [(path, estimate.mean, estimate.maximum, len(estimate.ratios)) for path, estimate in found.items()]
    results.table(rows, ("tokenizer", "mean", "maximum", "images"), "|decode(z') - decode(z)| / |z' - z|, alpha 0.7")
    results.figure(
        "lipschitz",
        lipschitz_figure(found),
        "How far the pixels of an image move for each unit that its latents are moved by wrong tokens, a count of "
        "images. Farther to the left: the decoder stands wrong tokens better.",
    )
    results.add("lipschitz", {path: {"mean": e.mean, "maximum": e.maximum} for path, e in found.items()})


def report_mmd(results: Results, table: Mapping[Setting, float]) -> None:
    """table: squared MMD by (alpha, delta)."""
    alpha, delta = min(table, key=lambda setting: table[setting])
    results.table([("lowest at", f"alpha {alpha}, delta {delta}", table[alpha, delta])], ("", "setting", "squared MMD"))
    results.figure(
        "mmd",
        settings_figure(table, "squared MMD to generated latents"),
        "How different perturbed latents of real images are from the latents that the generator makes (squared MMD), "
        "over alpha, a curve for each delta. Where it is lowest, training with that perturbation comes closest to what "
        "the decoder will meet.",
    )
    results.add("mmd", table_record(table))


def report_elbow(results: Results, spread: Mapping[int, float], count: int) -> None:
    """spread: mean squared distance by the number of clusters, of the features of `count` images."""
    results.table(list(spread.items()), ("clusters", "mean squared distance"), f"{count} images")
    results.figure(
        "elbow",
        elbow_figure(spread),
        "How far the features of an image are from the nearest of so many cluster centres. Where the curve bends, more "
        "codes stop to pay.",
    )
    results.add("elbow", spread)


def report_correlation(
    results: Results, rows: Sequence[Mapping[str, Any]], found: Mapping[str, RankCorrelation]
) -> None:
    """rows: of a benchmark. found: by the metric that is compared with gfid."""
    for name in found:
        caption = f"{name} against gfid, one point a tokenizer. Rising from left to right: it ranks them as gfid does."
        results.figure(name, correlation_figure(rows, name, "gfid"), caption)
    table = [(name, f.tau, f"{f.low:.2f} to {f.high:.2f}", f.pairs) for name, f in found.items()]
    results.table(table, ("metric", "Kendall's tau with gFID", "95 %", "pairs"), f"{len(rows)} tokenizers")
    results.add("correlation", {name: f._asdict() for name, f in found.items()})
