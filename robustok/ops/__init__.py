"""Operations: on a codebook (`vq`), and of autoregressive decoding (`decoding`)."""

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
    "Perturbed",
    "Quantized",
    "Similarity",
    "describe_backends",
    "vq_nearest",
    "vq_neighbors",
    "vq_perturb",
    "vq_quantize",
]
