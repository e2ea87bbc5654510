"""What a page shows of how a tokenizer's decoder stands wrong latents: of tokens pFD, of latents nFD.

evaluation/robustness.py measures it and names the figure, by which the entry here is found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..evaluation.robustness import Wrong

Table = Sequence[Sequence[float]]  # as evaluation/robustness.py has it: the value last in each row


@dataclass(frozen=True)
class ShownRobustness:
    """How one figure of robustness is called and laid out."""

    name: str
    of: str  # which reconstructions it is of, for the summary
    pictured: Callable[[Table], str]  # what was done to the pictures, which are of the strongest setting
    cells: Callable[[Table], tuple[list[tuple], tuple[str, ...]]]  # the settings as (rows, header)
    wrong: str  # what rises from row to row of the pictures


def shown_robustness(figures: dict) -> tuple[str, ShownRobustness] | None:
    """(key, entry) of the figure among those of a tokenizer; None where there is none."""
    return next(((key, shown) for key, shown in _SHOWN.items() if key in figures), None)


def multiples(
    originals: Tensor, pictures: Mapping[Wrong, Tensor], number: int
) -> tuple[list[tuple[str, Tensor]], list[str]]:
    """(rows, columns) of one of the originals: alpha downwards and delta across, or strengths of noise downwards.

    pictures: reconstructions under every setting, and clean ones. The original and the clean one fill their rows.
    """
    clean, *wrong = sorted(pictures)
    columns = sorted({setting[1:] for setting in wrong})
    rows = [("original", originals[[number] * len(columns)])]
    for first in sorted({setting[0] for setting in pictures}):
        keys = [clean if first == clean[0] else (first, *rest) for rest in columns]
        label = f"alpha {first:g}" if len(clean) > 1 else f"noise {first:g}"
        rows.append((label, torch.stack([pictures[key][number] for key in keys])))
    return rows, [f"delta {rest[0]}" if rest else "" for rest in columns]


def _replaced(table: Table) -> str:
    alpha, delta, _ = max(table)
    return f"alpha = {alpha} of the tokens replaced by one of their delta = {delta} nearest codes"


def _by_alpha_and_delta(table: Table) -> tuple[list[tuple], tuple[str, ...]]:
    alphas, deltas = sorted({row[0] for row in table}, reverse=True), sorted({row[1] for row in table})
    values = {(alpha, delta): value for alpha, delta, value in table}
    rows = [(f"alpha {alpha}", *(values[alpha, delta] for delta in deltas)) for alpha in alphas]
    return rows, ("", *(f"delta {delta}" for delta in deltas))


def _noised(table: Table) -> str:
    return f"noise of {max(table)[0]} standard deviations on their latents"


def _by_noise(table: Table) -> tuple[list[tuple], tuple[str, ...]]:
    rows = [(f"noise {noise}", value) for noise, value in sorted(table, reverse=True)]
    return rows, ("standard deviations of the latents", "distance")


_SHOWN = {
    "pfd": ShownRobustness(
        "pFD",
        "perturbed reconstructions, mean of 15 settings",
        _replaced,
        _by_alpha_and_delta,
        "more of the tokens replaced (alpha), across by codes farther away (delta)",
    ),
    "nfd": ShownRobustness(
        "nFD",
        "reconstructions from noised latents, mean of 5 strengths",
        _noised,
        _by_noise,
        "more noise, in standard deviations of the latents",
    ),
}
