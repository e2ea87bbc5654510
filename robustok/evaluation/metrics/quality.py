"""Image quality against the original, image by image: PSNR and SSIM."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of uint8 images (B, 3, H, W), peak 255: float64 (B,), in dB; infinite where equal."""
    _check(images, references)
    error = (images.double() - references.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(255**2 / error)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of uint8 images (B, 3, H, W): float64 (B,), at most 1.

    Wang et al. 2004: Gaussian window 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, biased moments; averaged over the
    positions where the whole window fits and over the three channels. Images need at least 11 x 11 pixels.
    """
    _check(images, references)
    if min(images.shape[-2:]) < 11:
        raise ValueError(f"ssim needs images of at least 11 x 11 pixels, found {tuple(images.shape[-2:])}")
    x, y = images.double(), references.double()
    mean_x, mean_y = _window(x), _window(y)
    variance_x = _window(x * x) - mean_x**2
    variance_y = _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _window(x: Tensor) -> Tensor:
    """Gaussian average (11 x 11, sigma 1.5) of each channel over the valid positions, one axis after the other."""
    offsets = torch.arange(-5, 6, dtype=x.dtype, device=x.device)
    weights = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(x, weights, groups=x.shape[1])
    return F.conv2d(x, weights.transpose(2, 3), groups=x.shape[1])


def _check(images: Tensor, references: Tensor) -> None:
    if images.dtype != torch.uint8 or references.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images (0..255), found {images.dtype} and {references.dtype}")
    if images.shape != references.shape or images.ndim != 4:
        found = f"{tuple(images.shape)} and {tuple(references.shape)}"
        raise ValueError(f"expected two batches of one shape (B, 3, H, W), found {found}")
