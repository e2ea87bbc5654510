"""Judging images and tokenizers: features, streaming moments, distances, pFID and what explains it."""

from .moments import FeatureStatistics, frechet_distance
from .pfid import PFID, delta_set, pfid, quick_pfid
from .quality import psnr, ssim

__all__ = ["PFID", "FeatureStatistics", "delta_set", "frechet_distance", "pfid", "psnr", "quick_pfid", "ssim"]
