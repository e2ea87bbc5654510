"""PSNR and SSIM against their definitions, written out pixel by pixel."""

import math

import pytest
import torch

from robustok.evaluation import psnr, ssim


@pytest.fixture
def pair():
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 3, 14, 13), generator=draw, dtype=torch.uint8)
    noise = torch.randint(-20, 21, x.shape, generator=draw)
    return x, (x.int() + noise).clamp(0, 255).to(torch.uint8)


def test_psnr_is_in_decibels_below_255(pair):
    x, y = pair
    for i in range(2):
        error = sum((int(a) - int(b)) ** 2 for a, b in zip(x[i].flatten(), y[i].flatten(), strict=True)) / x[i].numel()
        assert float(psnr(x, y)[i]) == pytest.approx(10 * math.log10(255**2 / error), rel=1e-12)
    assert psnr(x, x).isinf().all()


def test_ssim_is_wang_et_al_2004(pair):
    x, y = pair
    taps = [math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)]
    window = torch.tensor([[a * b for b in taps] for a in taps], dtype=torch.float64)
    window /= window.sum()
    values = []
    for channel in range(3):
        for row in range(4):
            for column in range(3):
                a, b = (v[1, channel, row : row + 11, column : column + 11].double() for v in (x, y))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                cov = (window * (a - mean_a) * (b - mean_b)).sum()
                c1, c2 = 2.55**2, 7.65**2
                values.append(
                    (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
                )
    assert float(ssim(x, y)[1]) == pytest.approx(float(torch.stack(values).mean()), rel=1e-9)
    assert torch.allclose(ssim(x, x), torch.ones(2, dtype=torch.float64))


def test_other_pairs_are_refused(pair):
    x, y = pair
    with pytest.raises(TypeError, match="uint8"):
        psnr(x.float(), y.float())
    with pytest.raises(ValueError, match="one shape"):
        ssim(x, y[:1])
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(x[..., :10], y[..., :10])
