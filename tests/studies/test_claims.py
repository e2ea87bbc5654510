"""What a study says of the paper's claims, on figures that are known."""

import numpy as np
import pytest
from scipy import stats

from robustok.studies import claims as said
from robustok.studies.plan import TRAINED


def by_claim(found):
    return {claim.claim: claim for claim in said.claims(found)}


def test_a_difference_beyond_the_seeds_is_one(found):
    """pFD falls by 0.9 with a spread of 0.07 from seed to seed; gFD by 0.05 with one of 0.11."""
    claims = by_claim(found)
    robust = claims["perturbation makes the decoder robust"]
    low, high = stats.ttest_ind([1.0, 1.1], [2.0, 1.9]).confidence_interval(0.95)
    assert robust.verdict == said.REPRODUCED
    assert f"pFD 1.95 -> 1.05; change of pFD {(low + high) / 2:.2f} ± {(high - low) / 2:.2f}" in robust.found
    assert claims["perturbation lowers gFD"].verdict == said.UNDECIDED
    assert "annealing to a half beats annealing to 0" not in claims  # no such row was run


def test_post_training_is_judged_over_all_generators(found):
    claim = by_claim(found)["post-training lowers gFD"]
    changes = [-0.3, -0.31, -0.3, -0.31]
    half = stats.t.ppf(0.975, 3) * np.std(changes, ddof=1) / 2
    assert claim.verdict == said.REPRODUCED
    assert f"over 4 generators -0.3050 ± {half:.4f}" in claim.found and "clearly lower in 4" in claim.found
    for run in found.of(TRAINED):  # the second space does not agree
        run.metrics["post"]["gfd_filters"] = run.metrics["generator"]["gfd_filters"]
    found.runs["none", 0].metrics["post"]["gfd_filters"] += 0.1
    assert by_claim(found)["post-training lowers gFD"].verdict == said.UNDECIDED


def test_pfd_must_be_better_than_rfd_to_foresee(found):
    """By rank, and not with four tokenizers; where all have the same rFD nothing is said."""
    assert "pFD foresees gFD before a generator exists, rFD does not" not in by_claim(found)
    for number, run in enumerate(found.of(TRAINED)):
        run.metrics["tokenizer"]["rfd"] = [4.0, 1.0, 3.0, 2.0][number]
        run.metrics["generator"]["gfd"] = [4.0, 3.0, 1.0, 2.0][number]
    claim = by_claim(found)["pFD foresees gFD before a generator exists, rFD does not"]
    rho = stats.spearmanr([2.0, 1.0, 1.9, 1.1], [4.0, 3.0, 1.0, 2.0]).statistic  # seed by seed
    assert f"over 4 tokenizers: pFD {rho:.2f}" in claim.found
    assert claim.verdict == said.UNDECIDED


@pytest.mark.parametrize(("patience", "kept"), [(1, (2, 0.8)), (2, (4, 0.7)), (9, (8, 0.6))])
def test_what_a_stopping_rule_keeps(patience, kept):
    checks = [(0, 1.0), (1, 0.9), (2, 0.8), (3, 0.85), (4, 0.7), (5, 0.75), (6, 0.75), (7, 0.9), (8, 0.6)]
    assert said.rule(checks, patience) == kept


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-2, -1, said.REPRODUCED), (-1, 1, said.UNDECIDED), (1, 2, said.CONTRADICTED)],
)
def test_verdicts(low, high, verdict):
    from robustok.studies.intervals import SeedInterval

    assert said.verdict(SeedInterval((low + high) / 2, low, high)) == verdict
