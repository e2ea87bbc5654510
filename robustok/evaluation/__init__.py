"""Evaluation of images and tokenizers: features, streaming moments, distances, pFID and what explains it."""

from .features.inception import InceptionFeatures
from .interpolation import InterpolationFID, interpolation_fid
from .judging import distances_of_rows
from .metrics.frechet import frechet_distance
from .metrics.kernel import kernel_distance, mmd
from .metrics.moments import FeatureStatistics
from .metrics.precision_recall import precision_recall
from .metrics.quality import psnr, ssim
from .metrics.scores import inception_score
from .metrics.sliced import mind
from .noise import NoiseFID, noise_fid
from .pfid import PFID, delta_set, pfid, quick_pfid

__all__ = [
    "PFID",
    "FeatureStatistics",
    "InceptionFeatures",
    "InterpolationFID",
    "NoiseFID",
    "delta_set",
    "distances_of_rows",
    "frechet_distance",
    "inception_score",
    "interpolation_fid",
    "kernel_distance",
    "mind",
    "mmd",
    "noise_fid",
    "pfid",
    "precision_recall",
    "psnr",
    "quick_pfid",
    "ssim",
]
