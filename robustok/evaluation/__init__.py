"""Judging images and tokenizers: features, streaming moments, distances, pFID and what explains it."""

from .discrepancy import kernel_distance, mmd
from .features import InceptionFeatures
from .moments import FeatureStatistics, frechet_distance
from .pfid import PFID, delta_set, pfid, quick_pfid
from .quality import psnr, ssim
from .scores import inception_score, precision_recall

__all__ = [
    "PFID",
    "FeatureStatistics",
    "InceptionFeatures",
    "delta_set",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "mmd",
    "pfid",
    "precision_recall",
    "psnr",
    "quick_pfid",
    "ssim",
]
