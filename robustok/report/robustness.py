"""What a page shows of how a tokenizer's decoder stands wrong latents: of tokens pFD, of latents nFD.

evaluation/robustness.py measures it and names the figure, by which the entry here is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Table = Sequence[Sequence[float]]  # as evaluation/robustness.py has it: the value last in each row


@dataclass(frozen=True)
class ShownRobustness:
    """How one figure of robustness is called and laid out."""

    name: str
    of: str  # which reconstructions it is of, for the summary
    pictured: Callable[[Table], str]  # what was done to the pictures, which are of the strongest setting
    cells: Callable[[Table], tuple[list[tuple], tuple[str, ...]]]  # the settings as (rows, header)


def shown_robustness(figures: dict) -> tuple[str, ShownRobustness] | None:
    """(key, entry) of the figure among those of a tokenizer; None where there is none."""
    return next(((key, shown) for key, shown in _SHOWN.items() if key in figures), None)


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
    "pfd": ShownRobustness("pFD", "perturbed reconstructions, mean of 15 settings", _replaced, _by_alpha_and_delta),
    "nfd": ShownRobustness("nFD", "reconstructions from noised latents, mean of 5 strengths", _noised, _by_noise),
}
