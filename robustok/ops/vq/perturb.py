"""Latent perturbation as an operator, and what its fused form shares with it."""

import torch
from torch import Tensor

from .backends import choice as backends
from .checks import check_around, check_draw, check_images, count_images, sample_numbers, scalar
from .reference import Draw, Perturbed


def prepare_draw(z, codebook, alpha, beta, delta, seed, sample_ids, num_images, neighbors) -> Draw:
    """The checked arguments of a perturbation; the ranges of alpha, delta and seed are checked when it runs."""
    check_images(z, codebook)
    check_around(neighbors)
    return Draw(
        alpha=scalar("alpha", alpha, torch.float64),
        delta=scalar("delta", delta, torch.int64),
        seed=scalar("seed", seed, torch.int64),
        sample_ids=sample_numbers(sample_ids, z),
        num_images=count_images(z.shape[0], beta, num_images),
    )


def vq_perturb(
    z: Tensor,
    codebook: Tensor,
    *,
    alpha: float | Tensor,
    beta: float,
    delta: int | Tensor,
    seed: int | Tensor,
    sample_ids: Tensor | None = None,
    num_images: int | None = None,
    neighbors: str = "latent",
    normalize: bool = True,
    backend: str = "auto",
) -> Perturbed:
    """Quantised latents, some of them replaced by a near code (arXiv 2509.12474, eqs. 2 to 4).

    In the first floor(beta * B) images each token is replaced with probability alpha by a code drawn uniformly from its
    delta nearest. Draws are keyed by (seed, sample id, token): the same for any batch split, process, backend, device.

    Args:
        z: latents (B, L, D), float32, float16 or bfloat16, any strides.
        codebook: codes (K, D), of any of these dtypes.
        alpha: share of an image's tokens perturbed, 0 to 1; a number or a 0-d tensor.
        beta: share of the batch's images perturbed, 0 to 1.
        delta: size of the set of near codes, 1 to K; a number or a 0-d integer tensor.
        seed: 0 to 2**63 - 1; a number or a 0-d int64 tensor. A training step passes its own.
        sample_ids: int64 (B,), who each image is; None: 0 to B - 1.
        num_images: how many images are perturbed, 0 to B, instead of floor(beta * B).
        neighbors: "latent": the codes nearest to z (the released code); "code": nearest to z's code (eq. 4).
        normalize, backend: as `vq_nearest`.

    Returns:
        Perturbed: z_q (B, L, D) in z's dtype, u + stop(e - u): the gradient reaches z as if nothing had been replaced
        (through the normalisation), none reaches the codebook; indices and nearest (B, L) int64, after and before.
        Where z is not finite, neither is z_q.

    Raises:
        TypeError, ValueError: as `vq_nearest`, and alpha, beta, delta, seed or num_images out of range. Ranges of
        tensors on a GPU are asserted there.

    Alpha and delta may change at every call of a compiled function without recompiling, as 0-d tensors.
    """
    draw = prepare_draw(z, codebook, alpha, beta, delta, seed, sample_ids, num_images, neighbors)
    return Perturbed(*_perturb(z, codebook, *draw, neighbors, normalize, backend))


@torch.library.custom_op("robustok::vq_perturb", mutates_args=())
def _perturb(
    z: Tensor,
    codebook: Tensor,
    alpha: Tensor,
    delta: Tensor,
    seed: Tensor,
    sample_ids: Tensor,
    num_images: int,
    neighbors: str,
    normalize: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    draw = Draw(alpha, delta, seed, sample_ids, num_images)
    check_draw(draw, len(codebook))
    return tuple(backends.forward(backend, codebook, normalize).perturb(z, codebook, draw, neighbors, normalize))


@_perturb.register_fake
def _(z, codebook, alpha, delta, seed, sample_ids, num_images, neighbors, normalize, backend):
    return z.new_empty(z.shape), *(z.new_empty(z.shape[:2], dtype=torch.int64) for _ in range(2))


@torch.library.custom_op("robustok::vq_perturb_backward", mutates_args=())
def _perturb_backward(z: Tensor, grad: Tensor, normalize: bool, backend: str) -> Tensor:
    return backends.choose(backend, z.device).load(backward=True).perturb_backward(z, grad, normalize)


@_perturb_backward.register_fake
def _(z, grad, normalize, backend):
    return z.new_empty(z.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.normalize, ctx.backend = inputs[-2:]


def _backward(ctx, grad, *_):
    (z,) = ctx.saved_tensors
    return _perturb_backward(z, grad, ctx.normalize, ctx.backend), *[None] * 9


_perturb.register_autograd(_backward, setup_context=_save)
