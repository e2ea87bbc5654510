"""What the codebook operations are measured against, each with its best settings for the task.

The authors allow TF32 products and so does what stands for them; the others compute products in float32, or as named.
"""

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn import functional as F

from .recording import tf32


def distances(z: Tensor, codes: Tensor) -> Tensor:
    """The full matrix |z|^2 + |e|^2 - 2 z.e, as the authors form it: doubling the product takes a pass of its own."""
    return z.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * (z @ codes.T)


def authors_quantize(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nearest codes, straight-through output and both losses of z (N, D), in the authors' steps."""
    z, codes = F.normalize(z, dim=1), F.normalize(codebook, dim=1)
    with tf32():
        indices = distances(z, codes).argmin(1)
    z_q = codes[indices]
    vq, commit = (z_q - z.detach()).square().mean(), (z_q.detach() - z).square().mean()
    return indices, z + (z_q - z).detach(), vq, commit


def authors_perturb(z: Tensor, z_q: Tensor, codebook: Tensor, alpha: float, perturbed: int, delta: int) -> Tensor:
    """The authors' perturbation: top-delta of every token, kept for the first `perturbed` tokens only."""
    z, codes = F.normalize(z, dim=1), F.normalize(codebook, dim=1)
    with tf32():
        near = distances(z, codes).topk(delta, dim=1, largest=False).indices
    pick = near.gather(1, torch.randint(delta, (len(z), 1), device=z.device))[:, 0]
    keep = torch.rand(len(z), device=z.device) < alpha
    keep[perturbed:] = False
    return torch.where(keep[:, None], z + (codes[pick] - z).detach(), z_q)


def cdist_nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """torch.cdist + argmin."""
    return torch.cdist(F.normalize(z, dim=1), F.normalize(codebook, dim=1)).argmin(1)


def topk_on_rows(z: Tensor, codebook: Tensor, perturbed: int, delta: int) -> Tensor:
    """What a careful user writes: one product in blocks, unsorted top-delta of the perturbed rows only."""
    z, codes = F.normalize(z, dim=1), F.normalize(codebook, dim=1)
    rows = 16_384 if z.is_cuda else 512  # a CPU's cache holds the scores of 512, a GPU waits for launches below 16,384
    indices = torch.cat([(block @ codes.T).argmax(1) for block in z.split(rows)])
    near = torch.cat([(block @ codes.T).topk(delta, sorted=False).indices for block in z[:perturbed].split(rows)])
    indices[:perturbed] = near.gather(1, torch.randint(delta, (perturbed, 1), device=z.device))[:, 0]
    return indices


def product(z: Tensor, codebook: Tensor, rows: int = 512) -> Tensor:
    """The matrix product alone, in blocks that stay in the cache: the floor of any product-based lookup."""
    codes, buffer = codebook.T.contiguous(), z.new_empty(rows, len(codebook))
    for block in z.split(rows):
        torch.mm(block, codes, out=buffer[: len(block)])
    return buffer


def vector_quantize_pytorch(codebook: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The package's cosine quantiser with this codebook, in evaluation: z (N, D) -> indices; None: not installed, or
    without what it needs."""
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ImportError:
        return None
    K, D = codebook.shape
    peer = VectorQuantize(dim=D, codebook_size=K, use_cosine_sim=True).to(codebook.device).eval()
    peer._codebook.embed.data.copy_(F.normalize(codebook, dim=1)[None])
    return lambda z: peer(z[None])[1][0]


def anchors(z: Tensor, codebook: Tensor) -> dict[str, Callable]:
    """The fastest lookups known, of rows z (N, D) that are given to them normalised, in the dtypes that they take: by
    name, those installed. None is exact for 16-bit rows."""
    rows, codes = (F.normalize(x, dim=1)[None] for x in (z, codebook))
    return {
        f"{package}, {str(dtype)[6:]}": _assign(function, rows.to(dtype), codes.to(dtype))
        for package, (function, dtypes) in (_lookups() if z.is_cuda else {}).items()
        for dtype in dtypes
    }


def _lookups() -> dict[str, tuple[Callable, tuple[torch.dtype, ...]]]:
    """(function, the dtypes that it is fast or right in) of the packages that are installed, with what they need."""
    found: dict[str, tuple[Callable, tuple[torch.dtype, ...]]] = {}
    with suppress(ImportError):
        from flash_kmeans.assign_euclid_triton import euclid_assign_triton

        found["flash-kmeans"] = euclid_assign_triton, (torch.float16, torch.float32)
    with suppress(ImportError):
        from flashlib.primitives.kmeans.cutedsl import cutedsl_assign_euclid

        found["flashlib"] = cutedsl_assign_euclid, (torch.bfloat16,)
    return found


def kernel_of(peer: str) -> str:
    """What ran: without CuteDSL, or where that fails, flashlib takes a kernel in Triton and does not say so."""
    if not peer.startswith("flashlib"):
        return "Triton" if peer.startswith("flash-kmeans") else "PyTorch"
    from flashlib.primitives.kmeans.cutedsl import _kernel_cache

    return "CuteDSL" if _kernel_cache else "Triton"


def _assign(function: Callable, rows: Tensor, codes: Tensor) -> Callable[[], Tensor]:
    squares = [x.float().square().sum(-1) for x in (rows, codes)]
    return lambda: function(rows, codes, x_sq=squares[0], c_sq=squares[1])[0]
