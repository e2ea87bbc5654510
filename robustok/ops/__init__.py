"""The operations on a codebook: nearest code, neighbours, perturbation, fused quantisation."""
