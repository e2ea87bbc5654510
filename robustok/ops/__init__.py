"""Operations: on a codebook (`vq`), and of autoregressive decoding (`decoding`)."""

from .vq import explain, vq_nearest, vq_neighbors, vq_perturb, vq_quantize

__all__ = ["explain", "vq_nearest", "vq_neighbors", "vq_perturb", "vq_quantize"]
