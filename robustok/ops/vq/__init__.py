"""The operations on a codebook: nearest code, neighbours, perturbation, fused quantisation."""

from .backends.choice import explain
from .nearest import vq_nearest, vq_neighbors
from .perturb import vq_perturb
from .quantize import vq_quantize

__all__ = ["explain", "vq_nearest", "vq_neighbors", "vq_perturb", "vq_quantize"]
