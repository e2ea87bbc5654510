"""The perturbation draw (METHOD.md section 3): which tokens are replaced, and by the code of which rank.

Two random words w0 and w1 belong to each (seed, sample id, token). The token is perturbed where w0 < threshold(alpha),
and the code that replaces it has the rank w1 * delta / 2**32 among the codes nearest to it. One pair of words serves
every setting: the tokens perturbed at a smaller alpha are among those perturbed at a larger one, and a rank grows in
proportion to delta.
"""

import torch
from torch import Tensor

from ...core.random import PERTURB, keyed_words
from .types import Draw


def perturbation_words(seed: int | Tensor, sample_ids: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The words w0 and w1, each int64 (images, tokens) in [0, 2**32), for sample_ids (images,) and tokens (tokens,)."""
    w0, w1, _, _ = keyed_words(seed, PERTURB, sample_ids[:, None], tokens)
    return w0, w1


def threshold(alpha: float | Tensor) -> Tensor:
    """floor(alpha * 2**32) as a 0-d int64: a word below it comes with probability alpha."""
    return (torch.as_tensor(alpha, dtype=torch.float64) * 2.0**32).floor().long()


def rank(word: Tensor, delta: int | Tensor) -> Tensor:
    """Rank in [0, delta), int64 and uniform, that a word w1 stands for."""
    return (word * delta) >> 32


def draw_ranks(draw: Draw, sample_ids: Tensor, tokens: Tensor) -> Tensor:
    """Rank of the code that replaces each token, int64 (images, tokens) in [0, delta); 0 where nothing changes."""
    w0, w1 = perturbation_words(draw.seed, sample_ids, tokens)
    return torch.where(w0 < threshold(draw.alpha), rank(w1, draw.delta), 0)
