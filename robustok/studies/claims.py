"""What the paper claims, and what a study's runs say of it: reproduced, contradicted, or neither at this size."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..evaluation.metrics.ranking import rank_agreement
from ..report.judgement import FILTERS
from .intervals import SeedInterval, mean_change, rank_difference
from .measured import Findings, Measured
from .plan import TRAINED

RECIPE, NONE = "annealed-half", "none"  # rows: the paper's recipe, and no perturbation
RISE = 0.02  # share of the lowest score by which a later one must lie above it to count (chosen here)
REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "contradicted", "not at this size"


class Claim(NamedTuple):
    """A claim beside what was found."""

    claim: str
    paper: str  # what is published
    found: str
    verdict: str
    rows: str  # options of `python -m robustok.study` that run what it rests on


def claims(found: Findings) -> list[Claim]:
    """All claims that the finished runs can say something of."""
    return [claim for look in _LOOKS if (claim := look(found)) is not None]


def verdict(interval: SeedInterval) -> str:
    """Of a claim that something is lower: an interval of the change."""
    if interval.has_zero:
        return UNDECIDED
    return REPRODUCED if interval.high < 0 else CONTRADICTED


def difference(found: Findings, path: str, row: str, other: str) -> SeedInterval | None:
    """Mean of a row less that of another; None where one of them has no finished run."""
    values = found.values(path)
    if row not in values or other not in values:
        return None
    return found.noise(path).of_difference(values[row], values[other])


def _lower(claim: str, paper: str, paths: tuple[str, ...], row: str, other: str) -> Callable[[Findings], Claim | None]:
    """That a row has lower figures than another. It is decided by the first of the paths, and by the same figure in
    the second feature space where that is among them; the others are told beside it.
    """

    def look(found: Findings) -> Claim | None:
        changes = {path: change for path in paths if (change := difference(found, path, row, other)) is not None}
        if not changes:
            return None
        means = found.values(paths[0])
        at = f"{sum(means[other]) / len(means[other]):.4g} -> {sum(means[row]) / len(means[row]):.4g}"
        told = ", of ".join(f"{_short(path)} {change}" for path, change in changes.items())
        verdicts = {verdict(changes[path]) for path in (paths[0], paths[0] + FILTERS) if path in changes}
        decided = verdicts.pop() if len(verdicts) == 1 else UNDECIDED
        said = f"{_short(paths[0])} {at}; change of {told}"
        return Claim(claim, paper, said, decided, f"--rows {other} {row}")

    return look


def _foresees(found: Findings) -> Claim | None:
    runs = found.of(TRAINED)
    pfd, rfd, gfd = ([run.figure(path) for run in runs] for path in ("tokenizer.pfd", "tokenizer.rfd", "generator.gfd"))
    if any(len(set(values)) == 1 for values in (pfd, rfd, gfd)):
        return None
    by_pfd, by_rfd = rank_agreement(pfd, gfd), rank_agreement(rfd, gfd)
    if by_pfd is None or by_rfd is None:
        return None
    one, other, more = by_pfd["spearman"], by_rfd["spearman"], rank_difference(gfd, pfd, rfd)
    said = (
        f"Spearman's rho over {len(runs)} tokenizers: pFD {one.value:.2f} ({one.low:.2f} to {one.high:.2f}), "
        f"rFD {other.value:.2f} ({other.low:.2f} to {other.high:.2f}); pFD's less rFD's {more.value:.2f} "
        f"({more.low:.2f} to {more.high:.2f})"
    )
    decided = UNDECIDED if more.has_zero or one.low <= 0 else REPRODUCED if more.value > 0 else CONTRADICTED
    rows = " ".join(dict.fromkeys(run.row.name for run in runs))
    paper = "within one K, pFID ranks tokenizers as gFID does; rFID does not"
    return Claim("pFD foresees gFD before a generator exists, rFD does not", paper, said, decided, f"--rows {rows}")


def _post_training(found: Findings) -> Claim | None:
    runs = found.of(TRAINED)
    if len(runs) < 2:
        return None
    changes = [
        mean_change([run.figure(f"post.{name}") - run.figure(f"generator.{name}") for run in runs])
        for name in ("gfd", f"gfd{FILTERS}")
    ]
    start = sum(run.figure("generator.gfd") for run in runs) / len(runs)
    clear = sum(run.metrics["post"]["gfd_change_interval"][1] < 0 for run in runs)
    said = (
        f"change of gFD over {len(runs)} generators {changes[0]}, from {start:.4g}, clearly lower in {clear} of them; "
        f"of gFD in random filters {changes[1]}"
    )
    rows = " ".join(dict.fromkeys(run.row.name for run in runs))
    decided = verdict(changes[0]) if verdict(changes[0]) == verdict(changes[1]) else UNDECIDED
    return Claim("post-training lowers gFD", "1.60 -> 1.36", said, decided, f"--rows {rows}")


def _control(found: Findings) -> Claim | None:
    """sigma 1 keeps all real tokens: the decoder goes on learning, and sees no generated ones."""
    runs = [found.runs.get((row, 0)) for row in ("sigma-0.7", "sigma-1.0")]
    if None in runs:
        return None
    generated, plain = (run.metrics["post"] for run in runs)
    before, (low, high), (low_plain, high_plain) = (
        runs[0].figure("generator.gfd"),
        generated["gfd_change_interval"],
        plain["gfd_change_interval"],
    )
    said = (
        f"gFD {before:.4g} -> {generated['gfd']:.4g} with sigma 0.7 (change {low:+.2f} to {high:+.2f}), "
        f"-> {plain['gfd']:.4g} with real tokens alone, sigma 1 ({low_plain:+.2f} to {high_plain:+.2f})"
    )
    apart = REPRODUCED if high < low_plain else CONTRADICTED if high_plain < low else UNDECIDED
    claim = "what helps is seeing generated tokens, not training the decoder longer"
    rows = f"--rows {RECIPE} sigma-0.7 sigma-1.0 --seeds 0"
    return Claim(claim, "no such control is published", said, apart, rows)


def _kinds(found: Findings) -> Claim | None:
    kinds = [name for name in ("uniform", "adversarial", "gaussian") if name in found.values("generator.gfd")]
    if not kinds:
        return None
    changes = {kind: difference(found, "generator.gfd", RECIPE, kind) for kind in kinds}
    told = ", ".join(f"{kind} {change}" for kind, change in changes.items())
    verdicts = {verdict(change) for change in changes.values() if change is not None}
    decided = verdicts.pop() if len(verdicts) == 1 else UNDECIDED
    said = f"gFD with near codes less gFD with {told}"
    rows = f"--rows {RECIPE} {' '.join(kinds)}"
    return Claim("near codes are better wrong latents than others", "asked for by reviewers", said, decided, rows)


def _stopping(found: Findings) -> Claim | None:
    run = found.runs.get(("long", 0))
    if run is None:
        return None
    checks = stopping_curve(run)
    stop, best = rule(checks, 1), min(checks, key=lambda check: check[1])
    last = checks[-1]
    said = (
        f"score of the validation images {best[1]:.3f} at its lowest (step {best[0]}), {stop[1]:.3f} where a patience "
        f"of one check keeps it (step {stop[0]}), {last[1]:.3f} at the end (step {last[0]})"
    )
    decided = REPRODUCED if last[1] > (1 + RISE) * best[1] else UNDECIDED
    claim = "trained too long, the decoder gets worse again: a stopping rule is needed"
    return Claim(claim, "stops by gFID", said, decided, f"--rows {RECIPE} long --seeds 0")


def stopping_curve(run: Measured) -> list[tuple[int, float]]:
    """(step, score on the validation images) of every check of post-training."""
    return [(r["step"], r["validation_score"]) for r in run.log if r["stage"] == "post" and "validation_score" in r]


def rule(checks: list[tuple[int, float]], patience: int) -> tuple[int, float]:
    """The check that a stopping rule keeps: the best one before `patience` checks without a better."""
    best, waited = checks[0], 0
    for check in checks[1:]:
        best, waited = (check, 0) if check[1] < best[1] else (best, waited + 1)
        if waited == patience:
            break
    return best


def _short(path: str) -> str:
    name = path.rpartition(".")[2]
    known = {"pfd": "pFD", "rfd": "rFD", "gfd": "gFD", "pkd": "pKD", "gkd": "gKD"}[name.removesuffix(FILTERS)]
    return f"{known} in random filters" if name.endswith(FILTERS) else known


_PFD = ("tokenizer.pfd", "tokenizer.pkd", "tokenizer.rfd")
_GFD = ("generator.gfd", f"generator.gfd{FILTERS}", "generator.gkd")
_GFD_AND_PFD = (*_GFD, "tokenizer.pfd", "tokenizer.rfd")
_REVIEWERS = "asked for by reviewers"
_LOOKS: tuple[Callable[[Findings], Claim | None], ...] = (
    _lower("perturbation makes the decoder robust", "pFID 6.98 -> 2.28, rFID 0.91 -> 1.02", _PFD, RECIPE, NONE),
    _lower("more of it (beta 0.5) more so", "pFID 3.61 at beta 0.1, 4.52 at 0.5", _PFD, "beta-half", "not-annealed"),
    _lower("perturbation lowers gFD", "gFID 4.13 -> 1.85", _GFD, RECIPE, NONE),
    _lower("annealing to a half beats no annealing", "gFID 3.93 -> 1.85", _GFD_AND_PFD, RECIPE, "not-annealed"),
    _lower("annealing to a half beats annealing to 0", "gFID 1.97 -> 1.85", _GFD_AND_PFD, RECIPE, "annealed-zero"),
    _lower("beta 0.1 beats beta 0.5", "gFID 5.40 -> 3.93", _GFD, "not-annealed", "beta-half"),
    _foresees,
    _post_training,
    _control,
    _stopping,
    _lower("the semantic loss lowers gFD", _REVIEWERS, _GFD, RECIPE, "no-semantic"),
    _lower("near codes are better wrong latents than any codes", _REVIEWERS, _GFD, RECIPE, "uniform"),
    _lower("near codes are better than adversarial ones", _REVIEWERS, _GFD, RECIPE, "adversarial"),
    _lower("near codes are better than Gaussian noise", _REVIEWERS, _GFD, RECIPE, "gaussian"),
)
