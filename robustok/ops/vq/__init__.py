"""The operations on a codebook: nearest code, neighbours, perturbation, fused quantisation."""

from .backends.registry import describe_backends
from .nearest import vq_nearest, vq_neighbors
from .perturb import vq_perturb
from .quantize import vq_quantize
from .reference import normalize_rows
from .types import Draw, Perturbed, Quantized, Similarity

__all__ = [
    "Draw",
    "Perturbed",
    "Quantized",
    "Similarity",
    "describe_backends",
    "normalize_rows",
    "vq_nearest",
    "vq_neighbors",
    "vq_perturb",
    "vq_quantize",
]
