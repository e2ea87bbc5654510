"""The discriminator: small spectral-normalised 1-D convolutional heads on the taps of a frozen network.

METHOD.md section 2; the parameter names of the heads are those of the released checkpoints' `discriminator` entry.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VIRTUAL_BATCH = 8  # samples that share the statistics of a normalisation


class SpectralConv1d(nn.Module):
    """1-D convolution, circularly padded to keep the length, whose weight is divided by its largest singular value.

    The singular value comes from `vectors`, which `find_vectors` sets before each forward by power iteration: one step
    in training, none in evaluation.
    """

    matrices = ("weight_orig",)  # see `decayed_parameters`

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, found {kernel_size}")
        self.padding = kernel_size // 2
        convolution = nn.Conv1d(channels_in, channels_out, kernel_size)  # for its initial values
        self.weight_orig = nn.Parameter(convolution.weight.detach())
        self.bias = nn.Parameter(convolution.bias.detach())
        self.register_buffer("weight_u", F.normalize(torch.randn(channels_out), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(channels_in * kernel_size), dim=0))
        self.vectors: Sequence[Tensor] = ()  # left and right

    def forward(self, x: Tensor) -> Tensor:
        if self.padding:
            x = F.pad(x, (self.padding, self.padding), mode="circular")
        return F.conv1d(x, self._weight(), self.bias)

    def _weight(self) -> Tensor:
        with torch.autocast(self.weight_orig.device.type, enabled=False):
            u, v = self.vectors
            return self.weight_orig / (u @ (self.weight_orig.flatten(1) @ v))


@torch.no_grad()
def find_vectors(layers: Sequence[SpectralConv1d], iterate: bool) -> None:
    """Sets the singular vectors for a forward of all layers: those kept, or what a step of power iteration makes of
    them, which is kept then. Set are new tensors: a second forward before the backward changes the kept in place.

    Layers go together where a GPU needs fewer kernels for it: not their products, whose sums would have another order.
    """
    kept = [[layer.weight_u for layer in layers], [layer.weight_v for layer in layers]]
    if iterate:
        with torch.autocast(layers[0].weight_orig.device.type, enabled=False):
            matrices = [layer.weight_orig.flatten(1) for layer in layers]
            v = _unit([matrix.T @ u for matrix, u in zip(matrices, kept[0], strict=True)])
            found = [_unit([matrix @ x for matrix, x in zip(matrices, v, strict=True)]), v]
            torch._foreach_copy_([*kept[0], *kept[1]], [*found[0], *found[1]])
    else:
        found = [[x.clone() for x in vectors] for vectors in kept]
    for layer, *vectors in zip(layers, *found, strict=True):
        layer.vectors = vectors


def _unit(vectors: list[Tensor]) -> list[Tensor]:
    """Each divided by its length; those of one size are one operation."""
    places: dict[int, list[int]] = {}
    for i, vector in enumerate(vectors):
        places.setdefault(len(vector), []).append(i)
    found = {}
    for same in places.values():
        rows = F.normalize(torch.stack([vectors[i] for i in same]), dim=1, eps=1e-12)
        found |= dict(zip(same, rows.unbind(), strict=True))
    return [found[i] for i in range(len(vectors))]


class VirtualBatchNorm(nn.Module):
    """Batch normalisation over groups of at most 8 consecutive samples, from their own statistics in either mode."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        count = math.ceil(len(x) / VIRTUAL_BATCH)
        size, larger = divmod(len(x), count)
        if not larger:
            return self._normalize(x, count)
        parts = x.tensor_split([larger * (size + 1)])  # the first groups have one sample more
        return torch.cat([self._normalize(*part) for part in zip(parts, (larger, count - larger), strict=True)])

    def _normalize(self, x: Tensor, groups: int) -> Tensor:
        """x (B, C, T) in so many equal groups: each group's channels are channels of one batch normalisation."""
        x = x.unflatten(0, (groups, -1))
        channels = x.transpose(0, 1).flatten(1, 2)  # (samples of a group, groups * C, T)
        weight, bias = self.weight.repeat(groups), self.bias.repeat(groups)
        normal = F.batch_norm(channels, None, None, weight, bias, training=True, eps=1e-6)
        return normal.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 1)


class Residual(nn.Module):
    """(fn(x) + x) / sqrt(2)"""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return (self.fn(x) + x) / math.sqrt(2)


def _head(channels: int, kernel_size: int, norm: str) -> nn.Sequential:
    def layer(size: int) -> nn.Sequential:
        normal = VirtualBatchNorm(channels) if norm == "batch" else nn.Identity()
        return nn.Sequential(SpectralConv1d(channels, channels, size), normal, nn.LeakyReLU(0.2))

    return nn.Sequential(layer(1), Residual(layer(kernel_size)), SpectralConv1d(channels, 1, 1))


class Discriminator(nn.Module):
    """A head on each tap of a frozen backbone.

    Args:
        backbone: images in [-1, 1] -> list of (B, C, T), with `backbone.channels`, the list of C. It is shared with
            others and frozen: neither its weights nor its mode belong to this module.
        kernel_size: of the second convolution of each head, odd.
        norm: "batch" (virtual batches of 8) or "none".
    """

    def __init__(self, backbone: nn.Module, *, kernel_size: int = 9, norm: str = "batch"):
        super().__init__()
        if norm not in ("batch", "none"):
            raise ValueError(f'norm must be "batch" or "none", found {norm!r}')
        self._backbone = [backbone]  # in a list: a module as attribute would become part of this one
        self.heads = nn.ModuleList(_head(channels, kernel_size, norm) for channels in backbone.channels)
        self._spectral = [part for part in self.heads.modules() if isinstance(part, SpectralConv1d)]

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> logits (B, sum of the taps' T), large where they look real."""
        find_vectors(self._spectral, self.training)
        taps = self._backbone[0](images)
        return torch.cat([head(tap).flatten(1) for head, tap in zip(self.heads, taps, strict=True)], dim=1)


def diff_augment(
    images: Tensor, draws: Tensor | None = None, *, translation: float = 0.125, cutout: float = 0.2
) -> Tensor:
    """Differentiable augmentation of what the discriminator sees (DiffAug, arXiv 2006.10738): colour, shift, cutout.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        draws: (7, B) uniform in (0, 1), what each image's augmentation is made from; None: torch's generator.
        translation: largest shift as a share of the side; uncovered pixels are 0.
        cutout: side of the square set to 0, as a share of the image's side.

    Returns: (B, 3, H, W), not clamped; differentiable.
    """
    draws = torch.rand(7, len(images), device=images.device) if draws is None else draws
    draws = draws[..., None, None, None]
    images = images + (draws[0] - 0.5)  # brightness
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * draws[1])  # saturation
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (0.5 + draws[2])  # contrast
    return _cut_out(_translate(images, translation, draws[3:5]), cutout, draws[5:7])


def _translate(images: Tensor, share: float, draws: Tensor) -> Tensor:
    rows, columns = _coordinates(images)
    shifts = [_integers(draws[i], 2 * round(size * share) + 1) for i, size in enumerate(images.shape[2:])]
    rows = rows + shifts[0] - round(images.shape[2] * share)
    columns = columns + shifts[1] - round(images.shape[3] * share)
    inside = (rows >= 0) & (rows < images.shape[2]) & (columns >= 0) & (columns < images.shape[3])
    rows, columns = rows.clamp(0, images.shape[2] - 1), columns.clamp(0, images.shape[3] - 1)
    # gather, not indexing, whose gradient sorts all places first. Of the pixels that take the same place one at most is
    # inside: the others add zeros to its gradient, in any order.
    moved = images.gather(2, rows.expand_as(images)).gather(3, columns.expand_as(images))
    return moved * inside


def _cut_out(images: Tensor, share: float, draws: Tensor) -> Tensor:
    rows, columns = _coordinates(images)
    keep = torch.zeros(len(images), 1, *images.shape[2:], dtype=torch.bool, device=images.device)
    for places, draw, size in zip((rows, columns), draws, images.shape[2:], strict=True):
        side = round(size * share)
        start = _integers(draw, size + 1 - side % 2) - side // 2  # the square's centre may be anywhere
        keep = keep | (places < start) | (places >= start + side)
    return images * keep


def _coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.arange(images.shape[2], device=images.device)[None, None, :, None]
    columns = torch.arange(images.shape[3], device=images.device)[None, None, None, :]
    return rows, columns


def _integers(uniform: Tensor, count: int) -> Tensor:
    """Uniform draws in [0, 1) -> integers in [0, count)."""
    return (uniform * count).long().clamp_max(count - 1)


def warmup_blur(images: Tensor, strength: float) -> Tensor:
    """Blur that fades from strength 1 to 0 after the discriminator's start; reflect padding.

    sigma = strength * sqrt(H / 2); separable kernel proportional to 2 ** -(i / sigma) ** 2 for |i| <= 3 sigma.
    """
    sigma = strength * math.sqrt(images.shape[2] / 2)
    radius = math.floor(3 * sigma)
    if radius < 1:
        return images
    places = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp2(-((places / sigma) ** 2))
    kernel = (kernel / kernel.sum()).to(images.dtype).expand(3, 1, -1)
    images = F.pad(images, (radius,) * 4, mode="reflect")
    images = F.conv2d(images, kernel[:, :, :, None], groups=3)
    return F.conv2d(images, kernel[:, :, None, :], groups=3)
