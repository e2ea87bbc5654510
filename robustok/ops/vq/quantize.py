"""The training operator: quantise, perturb, losses and usage in one pass over z."""

import torch
from torch import Tensor

from . import reference, transforms
from .backends.registry import choose, choose_for
from .checks import check_draw, check_given, resolve_draw, resolve_similarity
from .perturb import ARGUMENTS
from .types import Draw, Quantized, QuantizedGradients


def vq_quantize(
    z: Tensor,
    codebook: Tensor,
    *,
    alpha: float | Tensor = 0.0,
    beta: float = 1.0,
    delta: int | Tensor | None = None,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    num_images: int | None = None,
    neighbors: str = "latent",
    normalize: bool = True,
    similarity: str | None = None,
    backend: str = "auto",
) -> Quantized:
    """Everything a training step takes from the quantiser; arguments and errors as `vq_perturb`.

    `vq_quantize(z, codebook)` perturbs nothing; delta and seed are needed where alpha is not the number 0.

    Returns:
        Quantized: z_q, indices, nearest as `vq_perturb`, and
        z_q_clean (B, L, D): the same without perturbation, straight-through;
        vq_loss: 0-d float32, mean (e - stop u)^2 over the clean latents: its gradient reaches the codebook only;
        commit_loss: 0-d float32, mean (stop e - u)^2: its gradient reaches z only (METHOD.md section 2, unweighted);
        usage (K,) int64: how often each code is the nearest. Losses are 0 for an empty batch and finite only if z is.
    """
    if isinstance(alpha, Tensor) or alpha != 0:
        check_given(delta=delta, seed=seed)
    delta, seed = (1 if delta is None else delta), (0 if seed is None else seed)
    draw = resolve_draw(z, codebook, alpha, beta, delta, seed, sample_ids, num_images, neighbors)
    similarity = resolve_similarity(normalize, similarity)
    if not transforms.are_active():
        return Quantized(*_quantize(z, codebook, *draw, neighbors, similarity, backend))
    found = Quantized(*_quantize(z.detach(), codebook.detach(), *draw, neighbors, similarity, backend))
    return reference.quantized_of(z, codebook, found.nearest, found.indices, found.usage, similarity)


@torch.library.custom_op(
    "robustok::vq_quantize",
    mutates_args=(),
    schema=f"({ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _quantize(z, codebook, alpha, delta, seed, sample_ids, num_images, neighbors, similarity, backend):
    draw = Draw(alpha, delta, seed, sample_ids, num_images)
    check_draw(draw, len(codebook))
    return tuple(choose_for(backend, codebook, similarity).quantize(z, codebook, draw, neighbors, similarity))


@_quantize.register_fake
def _(z, codebook, *_):
    return tuple(Quantized.empty(z, codebook.shape[0]))


@torch.library.custom_op(
    "robustok::vq_quantize_backward",
    mutates_args=(),
    schema="""(Tensor z, Tensor codebook, Tensor nearest, Tensor[] straight_through, Tensor? vq_loss,
    Tensor? commit_loss, str similarity, str backend) -> (Tensor, Tensor)""",
)
def _quantize_backward(z, codebook, nearest, straight_through, vq_loss, commit_loss, similarity, backend):
    grads = QuantizedGradients(straight_through, vq_loss, commit_loss)
    return choose(backend, z.device).quantize_backward(z, codebook, nearest, grads, similarity)


@_quantize_backward.register_fake
def _(z, codebook, *_):
    return z.new_empty(z.shape), codebook.new_empty(codebook.shape)


def _save(ctx, inputs, output):
    ctx.set_materialize_grads(False)  # an output that nothing was computed from has no gradient to read
    ctx.save_for_backward(*inputs[:2], output[2])
    ctx.similarity, ctx.backend = inputs[-2:]


def _backward(ctx, z_q, indices, nearest, z_q_clean, vq_loss, commit_loss, usage):
    straight_through = [grad for grad in (z_q, z_q_clean) if grad is not None]
    grads = straight_through, vq_loss, commit_loss
    dz, dcodebook = _quantize_backward(*ctx.saved_tensors, *grads, ctx.similarity, ctx.backend)
    return dz, dcodebook, *[None] * 8


_quantize.register_autograd(_backward, setup_context=_save)
transforms.register_loop(_quantize)
transforms.refuse_second_derivative(_quantize_backward)
