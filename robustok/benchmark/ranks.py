"""Whether a metric ranks the tokenizers of a table as the FID of generated images (gFID) does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import UserError
from ..evaluation.metrics.ranking import MIN_POINTS, rank_agreement, rank_correlation

Row = Mapping[str, Any]  # of a tokenizer: its codebook_size, and figures by name


def rank_records(rows: Sequence[Row], metrics: Sequence[str], target: str, seed: int = 0) -> list[dict[str, Any]]:
    """Rank correlations of each metric with `target`, over the rows that have both, as JSON can hold them.

    For each codebook size K on its own, over all tokenizers, and over the pairs of tokenizers of one K together
    (Kendall's tau alone), which is what the paper's claim is about. `spearman` and `kendall` are None below MIN_POINTS
    tokenizers and where a metric tells none apart.
    """
    records = []
    for metric in metrics:
        known = [row for row in rows if row.get(metric) is not None and row.get(target) is not None]
        sizes = sorted({row["codebook_size"] for row in known if row["codebook_size"] is not None})
        groups = {f"K = {K}": [row for row in known if row["codebook_size"] == K] for K in sizes}
        for over, group in (groups | {"across K": known}).items():
            records.append(
                {"metric": metric, "over": over, "points": len(group), **_agreement(group, metric, target, seed)}
            )
        records.append({"metric": metric, "over": "pairs within one K", **_within(known, metric, target, seed)})
    return [record for record in records if record["points"]]


def _agreement(rows: Sequence[Row], metric: str, target: str, seed: int) -> dict[str, Any]:
    try:
        found = rank_agreement([row[metric] for row in rows], [row[target] for row in rows], seed=seed)
    except UserError:  # all alike
        found = None
    return {name: None if found is None else found[name]._asdict() for name in ("spearman", "kendall")}


def _within(rows: Sequence[Row], metric: str, target: str, seed: int) -> dict[str, Any]:
    sized = [row for row in rows if row["codebook_size"] is not None]
    record = {"points": len(sized), "spearman": None, "kendall": None}
    if len(sized) < MIN_POINTS:
        return record
    values = [[row[name] for row in sized] for name in (metric, target, "codebook_size")]
    try:
        found = rank_correlation(*values, seed=seed)
    except UserError:  # no two of one K
        return record
    return record | {"kendall": {"value": found.tau, "low": found.low, "high": found.high, "p": None}}


def rank_cells(record: Mapping[str, Any]) -> tuple:
    """One of those as cells of a table: metric, over, points, then rho and tau with interval and chance."""
    points = record["points"]
    few = f"too few ({points})" if points < MIN_POINTS else "-"
    found = [few if record[name] is None else _said(record[name]) for name in ("spearman", "kendall")]
    return (record["metric"], record["over"], points, *found)


def _said(found: Mapping[str, float | None]) -> str:
    chance = "" if found["p"] is None else f", p {found['p']:.3f}"
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f}{chance})"
