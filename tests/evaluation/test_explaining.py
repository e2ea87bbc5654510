"""What explains pFID: usage, maps, elbow, Lipschitz estimate, MMD of latents, rank correlation."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from robustok.evaluation.explaining import (
    codebook_map,
    codebook_usage,
    elbow,
    latent_discrepancy,
    lipschitz,
    perturbed_reconstructions,
    usage_of,
)
from robustok.evaluation.metrics.kernel import mmd
from robustok.evaluation.metrics.ranking import rank_correlation
from robustok.evaluation.perturbing import CLEAN, codes_of, perturbed_indices


def test_usage_of_equal_and_of_single_codes():
    even = usage_of(torch.full((16,), 7))
    assert (even.used, even.top) == (1, 1 / 16)
    assert even.perplexity == pytest.approx(16)
    single = usage_of(torch.tensor([0, 0, 9, 0]))
    assert (single.used, single.perplexity, single.top) == (0.25, 1, 1)
    mixed = usage_of(torch.tensor([1, 3]))
    assert mixed.perplexity == pytest.approx(math.exp(-0.25 * math.log(0.25) - 0.75 * math.log(0.75)))
    with pytest.raises(ValueError, match="no tokens"):
        usage_of(torch.zeros(4, dtype=torch.int64))


def test_usage_counts_over_all_batches(tokenizer, images):
    whole = codebook_usage(tokenizer, [images])
    parts = codebook_usage(tokenizer, images.split(7))
    assert torch.equal(whole.counts, parts.counts)
    assert int(whole.counts.sum()) == 60 * 16


def test_the_map_keeps_near_codes_together(tokenizer):
    around = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    noise = 0.01 * torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
    tokenizer.codebook = around.repeat_interleave(24, 0) + noise
    points = codebook_map(tokenizer)
    assert points.shape == (48, 2)
    first, second = points[:24], points[24:]
    between = (first.mean(0) - second.mean(0)).norm()
    assert between > 2 * max((part - part.mean(0)).norm(dim=1).mean() for part in (first, second))


def test_the_elbow_bends_at_the_true_number_of_clusters():
    draw = np.random.default_rng(0)
    centres = draw.normal(0, 10, (5, 8))
    rows = torch.from_numpy(centres.repeat(60, 0) + draw.normal(0, 0.1, (300, 8)))
    spread = elbow(rows, (1, 2, 5, 10))
    assert spread[1] == pytest.approx(float((rows - rows.mean(0)).square().sum(1).mean()), rel=1e-4)
    assert spread[1] > spread[2] > 50 * spread[5]
    assert spread[5] == pytest.approx(8 * 0.1**2, rel=0.15)
    with pytest.raises(ValueError, match="301 clusters of 300 rows"):
        elbow(rows, (301,))


def test_strips_are_reconstructions_under_each_setting(tokenizer, images):
    strips = perturbed_reconstructions(tokenizer, images[:4], [CLEAN, (1.0, 48)])
    assert list(strips) == [CLEAN, (1.0, 48)]
    assert all(shown.shape == (4, 3, 16, 16) and shown.dtype == torch.uint8 for shown in strips.values())
    assert not torch.equal(strips[CLEAN], strips[1.0, 48])


def test_lipschitz_of_a_linear_decoder_is_its_stretch(tokenizer, images):
    tokenizer.decode = lambda z: 3 * torch.cat([z.flatten(1), torch.zeros(len(z), 672)], dim=1).view(-1, 3, 16, 16)
    found = lipschitz(tokenizer, images.split(25), (0.7, 9))
    assert found.mean == pytest.approx(3, rel=1e-6)
    assert found.maximum == pytest.approx(3, rel=1e-6)
    assert len(found.ratios) == 60
    with pytest.raises(ValueError, match="changed no token"):
        lipschitz(tokenizer, [images], CLEAN)


def test_discrepancy_is_lowest_where_the_generated_tokens_come_from(tokenizer, images):
    strong = perturbed_tokens(tokenizer, images, (1.0, 40), seed=5)
    table = latent_discrepancy(tokenizer, images.split(20), strong, [(0.1, 2), (0.5, 12), (1.0, 40)])
    assert min(table, key=table.get) == (1.0, 40)
    sigma = torch.pdist(codes_of(tokenizer, strong.flatten()).double())
    same = mmd(
        codes_of(tokenizer, strong.flatten()), codes_of(tokenizer, strong.flatten()), sigma=float(sigma.median())
    )
    assert same < table[1.0, 40] < table[0.1, 2]


def perturbed_tokens(tokenizer, images, setting, seed):
    return dict(perturbed_indices(tokenizer, images, [setting], seed, torch.arange(len(images))))[setting]


def test_rank_correlation_is_kendalls():
    draw = np.random.default_rng(0)
    x = draw.integers(0, 8, 12).astype(float)  # with ties
    y = x + draw.normal(0, 2, 12)
    found = rank_correlation(x, y, resamples=200)
    assert found.tau == pytest.approx(kendalltau(x, y).statistic)
    assert found.low <= found.tau <= found.high
    assert found.pairs == 66


def test_only_pairs_of_one_group_are_compared():
    x, y = [1, 2, 10, 20], [2, 1, 20, 10]  # reversed within each group, rising between them
    assert rank_correlation(x, y, resamples=50).tau == pytest.approx(1 / 3)
    found = rank_correlation(x, y, groups=["a", "a", "b", "b"], resamples=50)
    assert (found.tau, found.low, found.high, found.pairs) == (-1, -1, -1, 2)


def test_published_pfid_ranks_tokenizers_better_than_rfid():
    """METHOD: within one K, pFID orders tokenizers as gFID does (LlamaGen-B with CFG) and rFID does not."""
    published = [  # K, rFID, pFID, gFID
        (16384, 4.50, 18.18, 14.80),
        (16384, 2.19, 13.12, 8.61),
        (16384, 1.41, 16.35, 11.01),
        (16384, 3.27, 16.78, 11.80),
        (8192, 1.87, 19.62, 10.85),
        (8192, 0.81, 7.91, 10.18),
        (8192, 1.03, 3.55, 8.84),
        (4096, 0.91, 6.98, 6.91),
        (4096, 1.02, 2.28, 5.67),
        (1024, 2.28, 4.20, 5.85),
        (1024, 2.24, 6.37, 11.01),
    ]
    K, rfid, pfid, gfid = zip(*published, strict=True)
    by_pfid, by_rfid = (rank_correlation(x, gfid, K) for x in (pfid, rfid))
    assert by_pfid.pairs == by_rfid.pairs == 6 + 3 + 1 + 1
    assert by_pfid.tau == 1 > by_rfid.tau


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="one length"):
        rank_correlation([1, 2], [1])
    with pytest.raises(ValueError, match="no two tokenizers"):
        rank_correlation([1, 2], [3, 4], groups=[1, 2])
