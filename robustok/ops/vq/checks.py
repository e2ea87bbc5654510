"""Checks of arguments: each error names the argument, what was found and what was expected, before a kernel starts."""

import math

import torch
from torch import Tensor

from ..indices import plain_number
from .types import SIMILARITIES, Draw, Similarity

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_rows(name: str, rows: Tensor, codebook: Tensor) -> None:
    """Rows (..., D) and a codebook (K, D): real numbers of a supported dtype, on one device, K >= 1, D >= 1."""
    for label, tensor in ((name, rows), ("codebook", codebook)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{label}: found {type(tensor).__name__}, expected a torch.Tensor")
        if tensor.dtype not in DTYPES:
            raise TypeError(
                f"{label}: found dtype {tensor.dtype}, expected float32, float16 or bfloat16 (distances are those of "
                f"float32 rows): pass {label}.float()"
            )
    if codebook.ndim != 2 or 0 in codebook.shape:
        raise ValueError(f"codebook: found shape {tuple(codebook.shape)}, expected (K, D) with K >= 1 and D >= 1")
    if rows.ndim < 1 or rows.shape[-1] != codebook.shape[1]:
        expected = f"(..., {codebook.shape[1]}), the width of the codebook"
        raise ValueError(f"{name}: found shape {tuple(rows.shape)}, expected {expected}")
    if rows.device != codebook.device:
        raise ValueError(f"codebook: found on {codebook.device}, expected on {rows.device}, as {name}")


def check_images(z: Tensor, codebook: Tensor) -> None:
    check_rows("z", z, codebook)
    if z.ndim != 3:
        raise ValueError(f"z: found shape {tuple(z.shape)}, expected three dimensions (B, L, D)")


def check_given(**arguments: object) -> None:
    """Refuses an argument that is None."""
    for name, value in arguments.items():
        if value is None:
            raise TypeError(f"{name}: found None, expected a number: alpha is not 0, so latents are perturbed")


def check_delta(delta: int, codebook: Tensor) -> int:
    """delta as Python's int."""
    delta = plain_number(delta)
    if isinstance(delta, bool) or not isinstance(delta, int):
        raise TypeError(f"delta: found {type(delta).__name__}, expected int")
    if not 1 <= delta <= len(codebook):
        raise ValueError(f"delta: found {delta}, expected 1 to {len(codebook)}, the number of codes")
    return delta


def check_neighbors(neighbors: str) -> None:
    if neighbors not in ("latent", "code"):
        raise ValueError(f"neighbors: found {neighbors!r}, expected 'latent' or 'code'")


def resolve_similarity(normalize: bool, similarity: str | None) -> Similarity:
    """The similarity as given; for None, what `normalize` says."""
    if similarity is None:
        return "cosine" if normalize else "l2"
    for known in SIMILARITIES:
        if similarity == known:
            return known
    raise ValueError(f"similarity: found {similarity!r}, expected None or one of {', '.join(SIMILARITIES)}")


def count_images(batch: int, beta: float, num_images: int | None) -> int:
    """How many images are perturbed: num_images where given, else floor(beta * B)."""
    beta, num_images = plain_number(beta), plain_number(num_images)
    if isinstance(beta, bool) or not isinstance(beta, int | float):
        raise TypeError(f"beta: found {type(beta).__name__}, expected a number")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta: found {beta}, expected a share from 0 to 1")
    if num_images is None:
        return math.floor(beta * batch)
    if isinstance(num_images, bool) or not isinstance(num_images, int):
        raise TypeError(f"num_images: found {type(num_images).__name__}, expected int or None")
    if not 0 <= num_images <= batch:
        raise ValueError(f"num_images: found {num_images}, expected 0 to {batch}, the images of the batch")
    return num_images


def scalar(name: str, value: float | int | Tensor, dtype: torch.dtype) -> Tensor:
    """A number or a 0-d tensor as a 0-d tensor of float64 or int64. A number stays on the CPU: no copy, no wait."""
    if isinstance(value, Tensor):
        wrong_kind = value.is_floating_point() and dtype == torch.int64
        if value.ndim or value.is_complex() or value.dtype == torch.bool or wrong_kind:
            raise TypeError(f"{name}: found a tensor {tuple(value.shape)} of {value.dtype}, expected 0-d {dtype}")
        return value.to(dtype)
    value = plain_number(value)
    kinds = int if dtype == torch.int64 else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{name}: found {type(value).__name__}, expected a number or a 0-d tensor of {dtype}")
    if dtype == torch.int64 and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name}: found {value}, expected a 64-bit integer")
    return torch.full((), value, dtype=dtype)


def resolve_sample_ids(sample_ids: Tensor | None, z: Tensor) -> Tensor:
    """sample_ids (B,) int64 as given, or 0..B-1 for None."""
    if sample_ids is None:
        return torch.arange(z.shape[0], device=z.device)
    if not isinstance(sample_ids, Tensor) or sample_ids.dtype != torch.int64:
        found = getattr(sample_ids, "dtype", type(sample_ids).__name__)
        raise TypeError(f"sample_ids: found {found}, expected an int64 tensor")
    if sample_ids.shape != z.shape[:1] or sample_ids.device != z.device:
        found = f"{tuple(sample_ids.shape)} on {sample_ids.device}"
        raise ValueError(f"sample_ids: found {found}, expected ({z.shape[0]},) on {z.device}")
    return sample_ids


def resolve_draw(z, codebook, alpha, beta, delta, seed, sample_ids, num_images, neighbors) -> Draw:
    """The arguments of `vq_perturb`, checked; the ranges of alpha, delta and seed are checked when it runs."""
    check_images(z, codebook)
    check_neighbors(neighbors)
    return make_draw(z, alpha, beta, delta, seed, sample_ids, num_images)


def make_draw(z, alpha, beta, delta, seed, sample_ids, num_images) -> Draw:
    """What perturbs latents z (B, L, D), of numbers, arrays or tensors."""
    return Draw(
        alpha=scalar("alpha", alpha, torch.float64),
        delta=scalar("delta", delta, torch.int64),
        seed=scalar("seed", seed, torch.int64),
        sample_ids=resolve_sample_ids(sample_ids, z),
        num_images=count_images(z.shape[0], beta, num_images),
    )


def check_draw(draw: Draw, K: int) -> None:
    """Ranges of alpha, delta and seed."""
    check_range("alpha", draw.alpha, 0, 1)
    check_range("delta", draw.delta, 1, K)
    check_range("seed", draw.seed, 0, 2**63 - 1)


def check_range(name: str, value: Tensor, low: float, high: float) -> None:
    """Every number of `value` from low to high (inf: no end). Raises ValueError with one outside.

    On a GPU, and in a graph that is compiled or exported, the tensor is asserted where it is, without its value in the
    message (a RuntimeError): nothing waits for it, and the graph stays whole.
    """
    expected = f"expected {low} to {high}" if high < math.inf else f"expected at least {low}"
    fits = (value >= low) & (value <= high)
    if value.is_cuda or torch.compiler.is_compiling():
        torch._assert_async(fits.all(), f"{name}: {expected}")
    elif not fits.all():
        raise ValueError(f"{name}: found {value[~fits].flatten()[0].item()}, {expected}")
