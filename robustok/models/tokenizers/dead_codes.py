"""Codes that are no latent's nearest any more: how long each has been so, and new places for them among the latents."""

import torch
from torch import Tensor

from ...core import distributed
from ...core.random import SAMPLE, keyed_words


@torch.no_grad()
def count_unused(unused: Tensor, usage: Tensor) -> None:
    """Counts a training step, in place. All processes must call this.

    unused: int64 (K,), the steps since each code was some latent's nearest. usage: int64 (K,), how often it was in this
    process's part of the step.
    """
    unused.copy_(torch.where(distributed.total(usage) > 0, 0, unused + 1))


@torch.no_grad()
def restart_dead(codebook: Tensor, unused: Tensor, after: int, rows: Tensor, seed: int) -> Tensor:
    """Sets the codes that were unused for `after` steps on latents drawn from `rows`, in place; bool (K,): which.

    codebook: (K, D). rows: (N, D), this process's part of the step's latents, on the scale of the codes; a draw depends
    on the seed, the code and the latents of all processes in the order of their ranks. Nothing waits for the device. A
    code stays where it is for a latent that is not finite. All processes must call this.
    """
    dead, count = unused >= after, len(rows)
    ranks = torch.arange(distributed.world(), device=rows.device)
    counts = distributed.total(torch.where(ranks == distributed.rank(), count, 0))
    words = keyed_words(seed, SAMPLE, torch.arange(len(dead), device=rows.device), 0)[0]
    place = words % counts.sum().clamp_min(1) - counts[: distributed.rank()].sum()
    here = (place >= 0) & (place < count)
    own = rows if count else rows.new_zeros(1, codebook.shape[1])
    fresh = distributed.total(torch.where(here[:, None], own[place.clamp(0, len(own) - 1)], 0.0))
    dead = dead & fresh.isfinite().all(1) & (counts.sum() > 0)
    codebook.copy_(torch.where(dead[:, None], fresh.to(codebook.dtype), codebook))
    unused.masked_fill_(dead, 0)
    return dead
