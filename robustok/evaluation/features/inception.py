"""uint8 images -> Inception features, exactly as the field's reference computes them or as fast as the device can."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.files import sha256
from ...models.frozen.inception import InceptionOutput, load_inception
from .measuring import measuring

SIDE = 299
PUBLISHED_HASH = "6726825d"  # first digits of the SHA-256 of the released weights, part of their file names


class InceptionFeatures:
    """Callable: uint8 images (B, 3, H, W) of any size -> `InceptionOutput` (float32, on `device`).

    mode "exact": float32 throughout, TensorFlow-1 resize, unfolded batch norm, TF32 off; for published numbers.
    mode "fast": batch norm folded into channels-last convolutions, of which those of 1 x 1 are merged; on a GPU also
    float16 storage, torch.compile, and resize and normalisation in one kernel. float16 rounds the features: compare
    fast figures with fast figures.

    `protocol` names what was computed, `sha256` the weights; both belong beside every figure. Raises UserError for
    missing or foreign weights, and for a file that carries the published hash in its name but not in its bytes.
    """

    def __init__(
        self,
        weights_path: str | Path,
        mode: str = "exact",
        *,
        device: torch.device | str | None = None,
        batch_size: int | None = None,
    ):
        if mode not in ("exact", "fast"):
            raise ValueError(f'mode: found {mode!r}, expected "exact" or "fast"')
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        on_gpu = self.device.type == "cuda"
        self.batch_size = batch_size or (256 if on_gpu else 8)  # bounds activations: some 20 MB an image in float32
        network = load_inception(weights_path).to(self.device)
        self.sha256 = check_hash(Path(weights_path))
        self.mode = mode
        self.half = mode == "fast" and on_gpu
        if mode == "fast":
            network.fold().merge().to(memory_format=torch.channels_last)
        if self.half:
            network = torch.compile(network.half(), dynamic=False)
        self.network = network
        precision = "float16" if self.half else "float32"
        self.protocol = f"inception-v3-tf2015/tf1-bilinear-{SIDE}/{mode}-{precision}"

    @measuring
    def __call__(self, images: Tensor) -> InceptionOutput:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise TypeError(f"images: found {images.dtype} {tuple(images.shape)}, expected uint8 (B, 3, H, W)")
        with torch.backends.cudnn.flags(enabled=True, benchmark=self.half, allow_tf32=False):
            parts = [self._forward(part.to(self.device)) for part in images.split(self.batch_size)]
        return InceptionOutput(*(None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True)))

    def _forward(self, images: Tensor) -> InceptionOutput:
        if not self.half:
            inputs = normalize(tf1_resize(images.float()))
            return self.network(inputs.contiguous(memory_format=torch.channels_last) if self.mode == "fast" else inputs)
        from ...kernels.inception_input import inception_input  # needs Triton, which only a GPU machine has to have

        count = len(images)  # the last batch is filled up: another size would compile again
        images = torch.cat([images, images.new_zeros(self.batch_size - count, *images.shape[1:])])
        output = self.network(inception_input(images, SIDE))
        return InceptionOutput(*(None if field is None else field[:count] for field in output))


def tf1_resize(images: Tensor, side: int = SIDE) -> Tensor:
    """Bilinear resize of float images (B, C, H, W) to side x side as TensorFlow 1 did it.

    Source coordinate = index * (in / out) with no half-pixel centre, the ratio in float32; neighbours floor and floor
    + 1 (clamped); along x first, then y; no antialiasing. The corner stays, the picture drifts to the lower right.
    """
    left, right, weight = _taps(images.shape[3], side, images)
    x, y = images[..., left], images[..., right]
    rows = x + (y - x) * weight
    top, bottom, weight = _taps(images.shape[2], side, images)
    x, y = rows[:, :, top], rows[:, :, bottom]
    return x + (y - x) * weight[:, None]


def _taps(size: int, side: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ratio = torch.tensor(size, dtype=torch.float32) / side
    source = torch.arange(side, dtype=torch.float32) * ratio
    low = source.floor().long()
    high = (low + 1).clamp(max=size - 1)
    return low.to(like.device), high.to(like.device), (source - low).to(like)


def normalize(images: Tensor) -> Tensor:
    """0..255 -> (x - 128) / 128, the input range of the network."""
    return (images - 128) / 128


def check_hash(path: Path) -> str:
    """SHA-256 of a weights file. Raises UserError where its name promises the published hash and its bytes differ."""
    digest = sha256(path)
    if PUBLISHED_HASH in path.name and not digest.startswith(PUBLISHED_HASH):
        raise UserError(f"{path}: SHA-256 begins {digest[:8]}, expected {PUBLISHED_HASH}: damaged, download it again")
    return digest
