"""Latent perturbation as an operator: codes, some of them replaced by a near one."""

import torch
from torch import Tensor

from . import reference, transforms
from .backends.registry import choose, choose_for
from .checks import check_draw, resolve_draw, resolve_similarity
from .types import Draw, Perturbed

# Arguments of the registered operators `vq_perturb` and `vq_quantize`.
ARGUMENTS = """Tensor z, Tensor codebook, Tensor alpha, Tensor delta, Tensor seed, Tensor sample_ids, SymInt num_images,
    str neighbors, str similarity, str backend"""


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
    similarity: str | None = None,
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
        neighbors: "latent": the codes nearest to z (the released code); "code": z's code, and after it those nearest to
            it (eq. 4).
        normalize, similarity, backend: as `vq_nearest`.

    Returns:
        Perturbed: z_q (B, L, D) in z's dtype, u + stop(e - u): the gradient reaches z as if nothing had been replaced
        (through the normalisation), none reaches the codebook; indices and nearest (B, L) int64, after and before.
        Where z is not finite, neither is z_q.

    Raises:
        TypeError, ValueError: as `vq_nearest`, and alpha, beta, delta, seed or num_images out of range. Ranges of
        tensors on a GPU are asserted there.

    Alpha and delta may change at every call of a compiled function without recompiling, as 0-d tensors. Transforms of
    torch.func and forward-mode differentiation see what `backward` sees; a second derivative by `backward` is refused.
    """
    draw = resolve_draw(z, codebook, alpha, beta, delta, seed, sample_ids, num_images, neighbors)
    similarity = resolve_similarity(normalize, similarity)
    if not transforms.are_active():
        return Perturbed(*_perturb(z, codebook, *draw, neighbors, similarity, backend))
    _, indices, clean = _perturb(z.detach(), codebook.detach(), *draw, neighbors, similarity, backend)
    return reference.perturbed_of(z, codebook, clean, indices, similarity)


@torch.library.custom_op("robustok::vq_perturb", mutates_args=(), schema=f"({ARGUMENTS}) -> (Tensor, Tensor, Tensor)")
def _perturb(z, codebook, alpha, delta, seed, sample_ids, num_images, neighbors, similarity, backend):
    draw = Draw(alpha, delta, seed, sample_ids, num_images)
    check_draw(draw, len(codebook))
    return tuple(choose_for(backend, codebook, similarity).perturb(z, codebook, draw, neighbors, similarity))


@_perturb.register_fake
def _(z, *_):
    return tuple(Perturbed.empty(z))


@torch.library.custom_op(
    "robustok::vq_perturb_backward",
    mutates_args=(),
    schema="(Tensor z, Tensor grad, str similarity, str backend) -> Tensor",
)
def _perturb_backward(z, grad, similarity, backend):
    return choose(backend, z.device).perturb_backward(z, grad, similarity)


@_perturb_backward.register_fake
def _(z, grad, similarity, backend):
    return z.new_empty(z.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.similarity, ctx.backend = inputs[-2:]


def _backward(ctx, grad, *_):
    (z,) = ctx.saved_tensors
    return _perturb_backward(z, grad, ctx.similarity, ctx.backend), *[None] * 9


_perturb.register_autograd(_backward, setup_context=_save)
transforms.register_loop(_perturb)
transforms.refuse_second_derivative(_perturb_backward)
