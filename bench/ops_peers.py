"""What the codebook operations are measured against, each with its best settings for the task."""

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def distances(z: Tensor, codes: Tensor) -> Tensor:
    """The full matrix |z|^2 + |e|^2 - 2 z.e, as the authors form it: doubling the product takes a pass of its own."""
    return z.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * (z @ codes.T)


def authors_quantize(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nearest codes, straight-through output and both losses of z (N, D), in the authors' steps."""
    z, codes = F.normalize(z, dim=1), F.normalize(codebook, dim=1)
    indices = distances(z, codes).argmin(1)
    z_q = codes[indices]
    vq, commit = (z_q - z.detach()).square().mean(), (z_q.detach() - z).square().mean()
    return indices, z + (z_q - z).detach(), vq, commit


def authors_perturb(z: Tensor, z_q: Tensor, codebook: Tensor, alpha: float, perturbed: int, delta: int) -> Tensor:
    """The authors' perturbation: top-delta of every token, kept for the first `perturbed` tokens only."""
    z, codes = F.normalize(z, dim=1), F.normalize(codebook, dim=1)
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
    """The package's cosine quantiser with this codebook, in evaluation: z (N, D) -> indices; None: not installed."""
    if importlib.util.find_spec("vector_quantize_pytorch") is None:
        return None
    from vector_quantize_pytorch import VectorQuantize

    K, D = codebook.shape
    peer = VectorQuantize(dim=D, codebook_size=K, use_cosine_sim=True).to(codebook.device).eval()
    peer._codebook.embed.data.copy_(F.normalize(codebook, dim=1)[None])
    return lambda z: peer(z[None])[1][0]


def anchors(z: Tensor, codebook: Tensor) -> dict[str, Callable]:
    """The fastest lookups known, of rows z (N, D) that are given to them normalised, in the dtypes that they take: by
    name, those installed. None is exact for 16-bit rows."""
    rows, codes = (F.normalize(x, dim=1)[None] for x in (z, codebook))
    found = {}
    if z.is_cuda and importlib.util.find_spec("flash_kmeans"):
        from flash_kmeans.assign_euclid_triton import euclid_assign_triton

        for dtype in (torch.float16, torch.float32):
            found[f"flash-kmeans, {str(dtype)[6:]}"] = _assign(euclid_assign_triton, rows.to(dtype), codes.to(dtype))
    if z.is_cuda and importlib.util.find_spec("flashlib"):
        from flashlib.primitives.kmeans.cutedsl import cutedsl_assign_euclid

        found["flashlib, bfloat16"] = _assign(cutedsl_assign_euclid, rows.bfloat16(), codes.bfloat16())
    return found


def _assign(function: Callable, rows: Tensor, codes: Tensor) -> Callable[[], Tensor]:
    squares = [x.float().square().sum(-1) for x in (rows, codes)]
    return lambda: function(rows, codes, x_sq=squares[0], c_sq=squares[1])[0]
