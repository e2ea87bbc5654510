"""Operations: on a codebook (`vq`), and of autoregressive decoding (`decoding`)."""

from .indices import Indices
from .perturbation import PerturbedLatents, decoding_gradient, perturb
from .vq import (
    Draw,
    Perturbed,
    Quantized,
    Similarity,
    describe_backends,
    vq_nearest,
    vq_neighbors,
    vq_perturb,
    vq_quantize,
)

__all__ = [
    "Draw",
    "Indices",
    "Perturbed",
    "PerturbedLatents",
    "Quantized",
    "Similarity",
    "decoding_gradient",
    "describe_backends",
    "perturb",
    "vq_nearest",
    "vq_neighbors",
    "vq_perturb",
    "vq_quantize",
]
